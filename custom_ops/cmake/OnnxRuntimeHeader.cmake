# Sets ONNXQUANT_ORT_INCLUDE_DIR to a folder with onnxruntime_c_api.h. Nothing is linked: ONNX Runtime hands its
# functions over when it loads the library, so any header of 1.17 or later serves for all later versions.
#
# In this order: ONNXRUNTIME_INCLUDE_DIR (CMake variable, then environment), an installed ONNX Runtime, and the header in
# a wheel that carries it, fetched through pip and pinned by hash.

set(_wheel "amd-quark==0.13")
set(_wheel_sha256 "3b3e58a4cbbcff20d27815b641aa4de4d698efde3c782306cb4a6a05bcf55c8c")
set(_wheel_folder "quark/onnx/operators/custom_ops/include/onnxruntime-1.17.0/onnxruntime/core/session")

function(_onnxquant_fetch_header out)
  set(folder "${CMAKE_BINARY_DIR}/onnxruntime_header")
  set(${out} "${folder}/${_wheel_folder}" PARENT_SCOPE)
  if(EXISTS "${folder}/${_wheel_folder}/onnxruntime_c_api.h")
    return()
  endif()
  find_package(Python3 3.9 REQUIRED COMPONENTS Interpreter)
  file(WRITE "${folder}/requirements.txt" "${_wheel} --hash=sha256:${_wheel_sha256}\n")
  message(STATUS "onnxruntime_c_api.h: not installed, taking it from ${_wheel}")
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" -m pip download --quiet --disable-pip-version-check --no-deps
            --only-binary=:all: --require-hashes --dest "${folder}" -r "${folder}/requirements.txt"
    RESULT_VARIABLE failed ERROR_VARIABLE reason OUTPUT_QUIET)
  file(GLOB wheel "${folder}/*.whl")
  if(failed OR NOT wheel)
    message(FATAL_ERROR
      "onnxruntime_c_api.h was not found, and the wheel ${_wheel} that carries it could not be fetched:\n${reason}\n"
      "Install ONNX Runtime's C headers (1.17 or later) and point ONNXRUNTIME_INCLUDE_DIR at the folder that holds "
      "onnxruntime_c_api.h, as an environment variable or with -DONNXRUNTIME_INCLUDE_DIR=...")
  endif()
  file(ARCHIVE_EXTRACT INPUT "${wheel}" DESTINATION "${folder}" PATTERNS "*/onnxruntime_c_api.h")
  file(REMOVE ${wheel})
endfunction()

if(NOT ONNXRUNTIME_INCLUDE_DIR AND DEFINED ENV{ONNXRUNTIME_INCLUDE_DIR})
  set(ONNXRUNTIME_INCLUDE_DIR "$ENV{ONNXRUNTIME_INCLUDE_DIR}")
endif()
if(ONNXRUNTIME_INCLUDE_DIR)
  set(ONNXQUANT_ORT_INCLUDE_DIR "${ONNXRUNTIME_INCLUDE_DIR}")
else()
  find_path(ONNXQUANT_INSTALLED_ORT onnxruntime_c_api.h
            PATH_SUFFIXES onnxruntime onnxruntime/core/session onnxruntime/include)
  if(ONNXQUANT_INSTALLED_ORT)
    set(ONNXQUANT_ORT_INCLUDE_DIR "${ONNXQUANT_INSTALLED_ORT}")
  else()
    _onnxquant_fetch_header(ONNXQUANT_ORT_INCLUDE_DIR)
  endif()
endif()
if(NOT EXISTS "${ONNXQUANT_ORT_INCLUDE_DIR}/onnxruntime_c_api.h")
  message(FATAL_ERROR "${ONNXQUANT_ORT_INCLUDE_DIR} holds no onnxruntime_c_api.h (see ONNXRUNTIME_INCLUDE_DIR)")
endif()
message(STATUS "onnxruntime_c_api.h: ${ONNXQUANT_ORT_INCLUDE_DIR}")
