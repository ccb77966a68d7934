#!/usr/bin/env bash
# Builds the library with sanitizers in a temporary folder, and runs the tests of the kernels and the operators under
# them: AddressSanitizer with UndefinedBehaviorSanitizer, then ThreadSanitizer. Nothing of this library is suppressed.
#
#     scripts/check_sanitizers.sh [--full] [address] [thread]
#
# Without --full there are fewer tests. PYTHON is an interpreter that has what the tests need, by default that of .venv.
# The C header is found as in every other build (custom_ops/cmake/OnnxRuntimeHeader.cmake).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROOT="$PWD"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
CMAKE="$(command -v cmake || "$PYTHON" -c 'import cmake; print(cmake.CMAKE_BIN_DIR + "/cmake")')"
FULL=false
KINDS=()
for argument in "$@"; do
    case "$argument" in
        --full) FULL=true ;;
        address | thread) KINDS+=("$argument") ;;
        *)
            echo "unknown argument '$argument', expected --full, address or thread" >&2
            exit 2
            ;;
    esac
done
[ ${#KINDS[@]} -gt 0 ] || KINDS=(address thread)

FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT

# The interpreter leaks by design. Memory that ONNX Runtime and Python hand from thread to thread is their own business;
# accesses of this library all count. A report ends the process.
export ASAN_OPTIONS="detect_leaks=0:exitcode=99"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:exitcode=99"
export TSAN_OPTIONS="halt_on_error=1:exitcode=99:ignore_noninstrumented_modules=1"

# Installs the package with a library built with these sanitizers into $FOLDER/site.
build() {
    rm -rf "$FOLDER/build" "$FOLDER/site"
    mkdir "$FOLDER/site"
    cp -R onnxquant "$FOLDER/site/"
    rm -rf "$FOLDER/site/onnxquant/_lib"
    {
        "$CMAKE" -S custom_ops -B "$FOLDER/build" -DONNXQUANT_SANITIZE="$1" -DPython3_EXECUTABLE="$PYTHON" &&
            "$CMAKE" --build "$FOLDER/build" --parallel 2 &&
            "$CMAKE" --install "$FOLDER/build" --prefix "$FOLDER/site"
    } >"$FOLDER/log" 2>&1 || {
        cat "$FOLDER/log" >&2
        return 1
    }
}

# Runs pytest with the runtime of the sanitizer that the library is linked to.
run() {
    local runtimes
    runtimes="$(ldd "$FOLDER/site/onnxquant/_lib/libonnxquant_ops.so" | sed -nE 's/.*=> ([^ ]*lib[at]san\.so[^ ]*) .*/\1/p')"
    [ -n "$runtimes" ] || {
        echo "the library is not linked to a sanitizer's shared runtime" >&2
        return 1
    }
    # libstdc++ too: the runtime looks for __cxa_throw when it starts, and Python alone would not have brought it.
    (cd "$FOLDER" && LD_PRELOAD="$runtimes $("${CXX:-c++}" -print-file-name=libstdc++.so.6)" PYTHONPATH="$FOLDER/site" \
        "$PYTHON" -m pytest -c "$ROOT/pyproject.toml" --rootdir "$ROOT" -p no:cacheprovider --no-header -q "$@")
}

for kind in "${KINDS[@]}"; do
    tests="$ROOT/tests/custom_ops"
    if [ "$kind" = address ]; then
        echo "AddressSanitizer and UndefinedBehaviorSanitizer"
        build address,undefined
        if $FULL; then
            ONNXQUANT_TEST_LIES=100 ONNXQUANT_TEST_TAILS=71 run "$tests"
        else
            ONNXQUANT_TEST_LIES=2 ONNXQUANT_TEST_TAILS=2 run "$tests/test_ops.py" "$tests/test_guard_pages.py"
        fi
    else
        echo "ThreadSanitizer"
        build thread
        if $FULL; then
            ONNXQUANT_TEST_RUNS=1000 ONNXQUANT_TEST_LIES=0 run "$tests/test_threads.py" "$tests/test_ops.py"
        else
            ONNXQUANT_TEST_RUNS=20 run "$tests/test_threads.py"
        fi
    fi
done
