#!/usr/bin/env bash
# Builds the library with sanitizers, and runs the tests of the kernels and the operators under them: AddressSanitizer with
# UndefinedBehaviorSanitizer, then ThreadSanitizer. Nothing of this library is suppressed.
#
#     scripts/check_sanitizers.sh [--full] [address] [thread]
#
# Without --full there are fewer tests, of the instruction sets scalar and one more, and only some kernels and encoders are
# built, because they take long to compile. PYTHON is an interpreter that has what the tests need, by default that of .venv; BUILD is
# where to build, and what is there is used again. The C header is found as in every other build
# (custom_ops/cmake/OnnxRuntimeHeader.cmake).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROOT="$PWD"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
export CXX="${CXX:-c++}"
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
SETS=""
ENCODERS=""
FEWER=OFF
if ! $FULL; then
    ENCODERS=f16
    FEWER=ON
    case "$(uname -m)" in
        x86_64 | amd64) SETS=avx2 ;;
        aarch64 | arm64) SETS=neon_dot ;;
    esac
fi

mkdir -p "${BUILD:=$ROOT/build/sanitizers}"
BUILD="$(cd "$BUILD" && pwd)"
OBSERVER="$ROOT/tests/unit/calibration/test_compiled.py"
FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT

# The interpreter leaks by design. Memory that ONNX Runtime and Python hand from thread to thread is their own business;
# accesses of this library all count. A report ends the process.
export ASAN_OPTIONS="detect_leaks=0:exitcode=99"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:exitcode=99"
export TSAN_OPTIONS="halt_on_error=1:exitcode=99:ignore_noninstrumented_modules=1"

# The shared runtime that a library built with sanitizers is linked to.
runtime_of() {
    ldd "$1" | sed -nE 's/.*=> ([^ ]*lib[at]san\.so[^ ]*) .*/\1/p'
}

# Whether the compiler has that runtime at all.
available() {
    echo 'int x;' | "$CXX" -x c++ -shared -fPIC "-fsanitize=$1" -o "$FOLDER/probe.so" - 2>/dev/null &&
        [ -n "$(runtime_of "$FOLDER/probe.so")" ]
}

# Installs the package with a library built with these sanitizers into $FOLDER/site.
build() {
    local begin=$SECONDS
    rm -rf "$FOLDER/site"
    mkdir "$FOLDER/site"
    cp -R onnxquant "$FOLDER/site/"
    rm -rf "$FOLDER/site/onnxquant/_lib"
    {
        "$CMAKE" -S custom_ops -B "$BUILD/$kind" -DPython3_EXECUTABLE="$PYTHON" \
            -DONNXQUANT_SANITIZE="$1" \
            -DONNXQUANT_INSTRUCTION_SETS="$SETS" -DONNXQUANT_ENCODERS="$ENCODERS" -DONNXQUANT_FEWER_KERNELS="$FEWER" &&
            "$CMAKE" --build "$BUILD/$kind" --parallel 2 &&
            "$CMAKE" --install "$BUILD/$kind" --prefix "$FOLDER/site"
    } >"$FOLDER/log" 2>&1 || {
        cat "$FOLDER/log" >&2
        return 1
    }
    echo "built in $((SECONDS - begin)) s"
}

# Runs pytest with that runtime. A report is written to the process's stderr, which pytest must leave alone: what it has
# captured dies with it.
run() {
    local runtime
    runtime="$(runtime_of "$FOLDER/site/onnxquant/_lib/libonnxquant_ops.so")"
    # libstdc++ too: the runtime looks for __cxa_throw when it starts, and Python alone would not have brought it.
    (cd "$FOLDER" && LD_PRELOAD="$runtime $("$CXX" -print-file-name=libstdc++.so.6)" PYTHONPATH="$FOLDER/site" \
        "$PYTHON" -m pytest -c "$ROOT/pyproject.toml" --rootdir "$ROOT" -p no:cacheprovider --no-header -q --capture=sys "$@")
}

check_address() {
    local tests="$ROOT/tests/custom_ops"
    echo "AddressSanitizer and UndefinedBehaviorSanitizer"
    if ! available address,undefined; then
        echo "skipped: $CXX has no shared runtime for it"
        return
    fi
    build address,undefined
    if $FULL; then
        ONNXQUANT_TEST_LIES=100 ONNXQUANT_TEST_TAILS=71 run -n auto "$tests" "$OBSERVER"
    else
        # Lies about a format of each kind take minutes; products with a permutation go through the same checks. Every array
        # has its own memory here, so that sizes around a block say what unmapped pages say elsewhere.
        ONNXQUANT_TEST_LIES=1 run -n auto -k "not (lying and (plain or Gather))" \
            "$tests/test_ops.py" "$tests/test_special_values.py::test_sizes_around_a_block" "$tests/test_map_codes.py" "$OBSERVER"
    fi
}

check_thread() {
    local tests="$ROOT/tests/custom_ops"
    echo "ThreadSanitizer"
    if ! available thread; then
        echo "skipped: $CXX has no shared runtime for it"
        return
    fi
    build thread
    if $FULL; then
        ONNXQUANT_TEST_RUNS=1000 ONNXQUANT_TEST_LIES=0 run "$tests/test_threads.py" "$tests/test_map_codes.py" "$tests/test_ops.py" "$OBSERVER"
    else
        ONNXQUANT_TEST_RUNS=20 run "$tests/test_threads.py" "$tests/test_map_codes.py" "$OBSERVER"
    fi
}

for kind in "${KINDS[@]}"; do
    "check_$kind"
done
