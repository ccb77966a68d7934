// The functions that exist once per instruction set.
#pragma once

#include "encode/jobs.h"

namespace onnxquant {

enum class Action { kEncode, kMeasure, kDecode };

struct EncodeTable {
  void (*pack)(const PackJob&);
  // The function of a format, and how many floats of memory it needs for a job.
  void (*(*find)(const EncodeJob&))(const EncodeJob&, Action, float* scratch);
  std::int64_t (*scratch)(std::int64_t cols, std::int64_t group);
  void (*survey)(const SurveyJob&, float* scratch);
};

extern const EncodeTable kEncodeScalar;
#ifdef ONNXQUANT_HAS_AVX2
extern const EncodeTable kEncodeAvx2;
#endif
#ifdef ONNXQUANT_HAS_AVX512VNNI
extern const EncodeTable kEncodeAvx512;
#endif

}  // namespace onnxquant
