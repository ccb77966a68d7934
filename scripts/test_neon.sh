#!/usr/bin/env bash
# Checks kernels, encoders, packers and observers for 64-bit ARM on any Linux: cross-compiles them, lets numpy compute cases,
# and runs those on emulated CPUs with and without dot products. QUICK=1 builds fewer kernels and encoders, with less optimization,
# and takes one of 61 cases; BUILD is where to build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BUILD=${BUILD:-build/aarch64}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
OPTIONS=()
CASES=()
if [ -n "${QUICK:-}" ]; then
  ENCODERS=(int4 q4_k nf4 llm_int8)
  OPTIONS=(-DONNXQUANT_OPTIMIZATION=1 -DONNXQUANT_FEWER_KERNELS=ON "-DONNXQUANT_ENCODERS=$(IFS=';'; echo "${ENCODERS[*]}")")
  CASES=(--every 61 --encoders "${ENCODERS[@]}")
fi

for tool in aarch64-linux-gnu-g++ qemu-aarch64 cmake; do
  if ! command -v "$tool" >/dev/null; then
    echo "skipped: $tool is missing (Debian: g++-aarch64-linux-gnu, qemu-user, cmake)"
    exit 0
  fi
done

mkdir -p "$BUILD"
build() {
  cmake -S custom_ops -B "$BUILD" -DCMAKE_TOOLCHAIN_FILE="$PWD/custom_ops/cmake/aarch64-linux-gnu.cmake" \
    -DONNXQUANT_TESTS=ON -DONNXQUANT_LIBRARY=OFF "${OPTIONS[@]}" && cmake --build "$BUILD" -j "$(nproc)"
}
build >"$BUILD/log" 2>&1 || { cat "$BUILD/log"; exit 1; }
"$PYTHON" tests/custom_ops/write_vectors.py "$BUILD/cases" "${CASES[@]}"

check() {  # CPU, instruction sets it must have
  echo -n "$1: "
  qemu-aarch64 -cpu "$1" -L /usr/aarch64-linux-gnu "$BUILD/kernels_test" "$BUILD/cases" "$2"
}
check max scalar,neon_dot,neon_i8mm
check neoverse-n1 scalar,neon_dot
check cortex-a57 scalar
