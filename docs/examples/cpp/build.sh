#!/bin/sh
# Builds classify.cpp against the onnxruntime of a Python installation: build.sh FOLDER_OF_onnxruntime_c_api.h OUTPUT_FOLDER
# PYTHON and CXX name other programs. A wheel has the library under its full version; the loader asks for its short name.
set -eu
capi=$("${PYTHON:-python3}" -c 'import pathlib, onnxruntime; print(pathlib.Path(onnxruntime.__file__).parent / "capi")')
ln -sf "$capi"/libonnxruntime.so.*.*.* "$2/libonnxruntime.so.1"
"${CXX:-c++}" -std=c++17 -O2 -Wall -Wextra -I"$1" "$(dirname "$0")/classify.cpp" -o "$2/classify" \
    "$2/libonnxruntime.so.1" -Wl,-rpath,'$ORIGIN'
