// The encoders, decoders and packers of an instruction set.
#pragma once

#include <cstdint>

#include "encode/jobs.h"
#include "kernels/format.h"

namespace onnxquant {

enum class Action { kEncode, kMeasure, kDecode };

// Bits of EncoderTraits::inputs: what a job must bring beside weights and planes, or may bring.
enum Input : unsigned {
  kNoInput = 0,
  kSharedScale = 1,  // one scale for the whole weight
  kZeroPoint = 2,    // whether there are zero points, and of which kind
  kValueTable = 4,   // the value of each code
  kLevels = 8,       // the values in their order, to search the nearest
};

// Properties of the format that an encoder is written for; they must fit those of the format it is registered for.
struct EncoderTraits {
  int bits;            // of a code
  std::int64_t group;  // weights that share a scale; 0: as the job says
  ScaleType scale_type;
  Side side;
  unsigned inputs = kNoInput;
};

struct Encoder {
  const char* name;
  EncoderTraits traits;
  void (*run)(const EncodeJob&, Action, float* scratch);  // null: the library does not encode this format
};

struct EncoderTable {
  const Encoder* first;
  const Encoder* last;
  std::int64_t (*scratch)(std::int64_t cols, std::int64_t group);  // floats of memory that a job needs
  void (*survey)(const SurveyJob&, float* scratch);
  void (*pack)(const PackJob&);
  const Encoder* begin() const { return first; }
  const Encoder* end() const { return last; }
};

}  // namespace onnxquant
