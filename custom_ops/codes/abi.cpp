// The C ABI of maps of codes.
#include "codes/code_map.h"
#include "guarded_call.h"
#include "isa/dispatch.h"
#include "kernels/error.h"

using namespace onnxquant;  // NOLINT: the C ABI has no namespace of its own

// Maps codes as the op does, on one thread: element i is of channel i / inner % channels, tables [channels][256].
ONNXQUANT_EXPORT int onnxquant_map_codes(const char* isa, const std::uint8_t* tables, std::int64_t channels, std::int64_t inner,
                                         const std::uint8_t* in, std::int64_t count, std::uint8_t* out) {
  return guarded_call([&] {
    if (count < 0 || tables == nullptr || (count > 0 && (in == nullptr || out == nullptr))) throw Error("codes are missing");
    Serial serial;
    map_codes(instruction_set(isa), CodeMap{tables, channels, inner}, in, count, out, serial);
  });
}
