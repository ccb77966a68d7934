// In which order activations meet the weights of a code vector.
#pragma once

namespace onnxquant {

// Where k % 16 goes: first the weights in the lowest field of each of the 4 bytes, then those in the next field.
template <int kBits>
constexpr int field_order(int k) {
  constexpr int kFields = 8 / kBits, kStep = 4 * kFields;
  return k / kStep * kStep + k % kFields * 4 + k % kStep / kFields;
}

}  // namespace onnxquant
