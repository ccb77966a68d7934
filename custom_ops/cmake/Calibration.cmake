# Observers of calibration: one source per instruction set, as the encoders.

function(onnxquant_calibration target)
  set(folder calibration)
  target_sources(${target} PRIVATE ${folder}/abi.cpp ${folder}/observer.cpp ${folder}/observe_scalar.cpp)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    target_sources(${target} PRIVATE ${folder}/observe_avx2.cpp ${folder}/observe_avx512.cpp)
    if(MSVC)
      set_source_files_properties(${folder}/observe_avx2.cpp PROPERTIES COMPILE_OPTIONS "/arch:AVX2")
      set_source_files_properties(${folder}/observe_avx512.cpp PROPERTIES COMPILE_OPTIONS "/arch:AVX512")
    else()
      set(own -fno-trapping-math)  # nobody reads the flags of floating point exceptions
      set_source_files_properties(${folder}/observe_scalar.cpp PROPERTIES COMPILE_OPTIONS "${own}")
      set_source_files_properties(${folder}/observe_avx2.cpp PROPERTIES COMPILE_OPTIONS "${own};-mavx2")
      set_source_files_properties(${folder}/observe_avx512.cpp PROPERTIES COMPILE_OPTIONS
        "${own};-mavx2;-mavx512f;-mavx512dq;-mavx512bw;-mavx512vl;-mprefer-vector-width=512")
    endif()
  endif()
endfunction()
