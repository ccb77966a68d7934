#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "encode/table.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace avx2 {
#include "encode/pack.inc.h"
}  // namespace avx2
}  // namespace

const EncodeTable kEncodeAvx2{avx2::pack};

}  // namespace onnxquant
