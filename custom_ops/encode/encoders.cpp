// The encoders, decoders and packers of one instruction set: simd/target.h says how this is compiled.
#include <iterator>
#include <type_traits>

#include "encode/encoder_table.h"
#include "encode/form.h"
#include "encode/pack.h"
#include "encode/survey.h"
#include "encode/walk.h"

namespace onnxquant::ONNXQUANT_ISA {
namespace {

template <class AnyEncoder>
void encode(const EncodeJob& job, Action action, float* scratch) {
  if constexpr (std::is_constructible_v<AnyEncoder, const EncodeJob&>) {
    run(AnyEncoder(job), action, scratch);
  } else {
    AnyEncoder::with_form(job, [&](const auto& form) { run(form, action, scratch); });
  }
}

constexpr bool same(const char* a, const char* b) {
  for (; *a != '\0' && *a == *b; ++a, ++b) {
  }
  return *a == *b;
}

template <const auto& kFamily>
constexpr bool has_side(Side side) {
  for (const Format& format : kFamily) {
    if (format.side == side) return true;
  }
  return false;
}

// The row of a format, whose first variant is the one that is encoded, and bears the name of the header.
template <class AnyEncoder, const auto& kFamily>
constexpr Encoder encoder_of(const char* name) {
  if constexpr (std::is_same_v<AnyEncoder, NoEncoder>) {
    return {name, {}, nullptr};
  } else {
    constexpr const Format& kFormat = kFamily[0];
    constexpr EncoderTraits kTraits = AnyEncoder::kTraits;
    constexpr bool kFactors = has_factors(kFormat.side);
    constexpr bool kWholes = kFormat.values == Values::kHalf || kFormat.values == Values::kBfloat;
    static_assert(kTraits.bits == kFormat.bits, "the encoder writes codes of another width");
    static_assert(kTraits.scale_type == kFormat.scale_type, "the encoder writes scales of another type");
    static_assert(kTraits.side == kFormat.side, "the encoder writes other side information");
    static_assert(kTraits.group % kFormat.min_block == 0, "the encoder's groups are no whole blocks");
    static_assert(kTraits.group <= kFormat.max_block || kFactors || kWholes, "the encoder's groups are longer than blocks can be");
    static_assert(kTraits.group != 0 || kFormat.min_block != kFormat.max_block, "blocks have one size, but the encoder's have any");
    static_assert((kTraits.inputs & kValueTable) == 0 || kFormat.values == Values::kTable, "codes choose from no table");
    static_assert(((kTraits.inputs & kZeroPoint) != 0) == has_side<kFamily>(Side::kZeroCodes), "zero points");
    static_assert(((kTraits.inputs & kZeroPoint) != 0) == has_side<kFamily>(Side::kZeroHalves), "float16 zero points");
    return {name, kTraits, encode<AnyEncoder>};
  }
}

}  // namespace
}  // namespace onnxquant::ONNXQUANT_ISA

#include "all_encoders.h"

namespace onnxquant::ONNXQUANT_ISA {

extern const EncoderTable kEncoders;
const EncoderTable kEncoders = {std::begin(kAllEncoders), std::end(kAllEncoders), scratch_floats, survey, pack};

}  // namespace onnxquant::ONNXQUANT_ISA
