#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "encode/table.h"
#include "kernels/half.h"
#include "kernels/inline.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace avx512 {
// clang-format off: in this order
#include "encode/numbers.inc.h"
#include "encode/lanes_avx512.h"
#include "encode/source.inc.h"
#include "encode/forms.inc.h"
#include "encode/superblocks.inc.h"
#include "encode/run.inc.h"
#include "encode/pack.inc.h"
// clang-format on
}  // namespace avx512
}  // namespace

const EncodeTable kEncodeAvx512{avx512::pack, avx512::find, avx512::scratch_floats, avx512::survey};

}  // namespace onnxquant
