# Encoders: one source per instruction set, as the kernels; they need nothing beyond AVX-512 F, BW, DQ and VL. Each comes
# with the kernels whose CPUs have it.

function(onnxquant_encode target)
  target_sources(${target} PRIVATE encode/abi.cpp)
  set(avx2 -mavx2 -mfma -mf16c)
  set(avx512 ${avx2} -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512)
  if(MSVC)
    set(avx2 /arch:AVX2)
    set(avx512 /arch:AVX512)
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12's own avx512fintrin.h warns (GCC bug 105593).
    list(APPEND avx512 -Wno-maybe-uninitialized -Wno-uninitialized)
  endif()
  get_target_property(built ${target} COMPILE_DEFINITIONS)
  _onnxquant_encoder(${target} scalar "")
  if("ONNXQUANT_HAS_AVX2" IN_LIST built)
    _onnxquant_encoder(${target} avx2 "${avx2}")
  endif()
  if("ONNXQUANT_HAS_AVX512VNNI" IN_LIST built)
    _onnxquant_encoder(${target} avx512 "${avx512}")
  endif()
endfunction()

function(_onnxquant_encoder target name options)
  if(NOT MSVC)
    # Nobody reads the flags of floating point exceptions: both sides of a choice may be computed.
    list(APPEND options -fno-trapping-math)
  endif()
  target_sources(${target} PRIVATE encode/${name}.cpp)
  set_source_files_properties(encode/${name}.cpp PROPERTIES COMPILE_OPTIONS "${options}")
endfunction()
