#include <cstddef>
#include <cstdint>
#include <cstring>

#include "encode/table.h"

// The unnamed namespace keeps every function out of the other instruction sets' reach: the linker may merge equal names.
namespace onnxquant {
namespace {
namespace scalar {
#include "encode/pack.inc.h"
}  // namespace scalar
}  // namespace

const EncodeTable kEncodeScalar{scalar::pack};

}  // namespace onnxquant
