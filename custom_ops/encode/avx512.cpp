#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "encode/table.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace avx512 {
#include "encode/pack.inc.h"
}  // namespace avx512
}  // namespace

const EncodeTable kEncodeAvx512{avx512::pack};

}  // namespace onnxquant
