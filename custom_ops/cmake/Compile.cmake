# How everything is compiled: warnings, reproducible floats, hardening.

function(onnxquant_compile target)
  set_target_properties(${target} PROPERTIES
    CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /fp:precise)
    return()
  endif()
  # Contraction into FMA would make results depend on the instruction set.
  target_compile_options(${target} PRIVATE
    -O${ONNXQUANT_OPTIMIZATION} -ffp-contract=off -fno-fast-math -fno-math-errno -Wall -Wextra -Wshadow -Wconversion
    -fstack-protector-strong)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -Wno-ignored-attributes)  # of vectors that are arguments of templates
  endif()
  if(NOT ONNXQUANT_SANITIZE)
    target_compile_options(${target} PRIVATE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
  endif()
  if(ONNXQUANT_SANITIZE)
    if(ONNXQUANT_FEWER_KERNELS)  # to be compiled sooner
      set(level 0)
    else()
      set(level 1)
    endif()
    # Null pointers and the ends of objects are seen by their page and by AddressSanitizer; asking for them at every
    # access makes the kernels take ten times as long to compile.
    target_compile_options(${target} PRIVATE
      -fsanitize=${ONNXQUANT_SANITIZE} -fno-sanitize=null,object-size,vptr -fno-sanitize-recover=all
      -fno-omit-frame-pointer -g1 -O${level})
    target_link_options(${target} PRIVATE -fsanitize=${ONNXQUANT_SANITIZE})
  endif()
endfunction()

# The library shows its two faces and nothing else.
function(onnxquant_link target)
  if(UNIX AND NOT APPLE)
    # nodelete: sessions and ONNX Runtime keep pointers into the library, so it stays once it is loaded.
    target_link_options(${target} PRIVATE -Wl,-z,relro,-z,now,-z,noexecstack,-z,nodelete
      "-Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/exports.map")
    if(NOT ONNXQUANT_SANITIZE)
      target_link_options(${target} PRIVATE -Wl,-z,defs)
    endif()
  endif()
endfunction()
