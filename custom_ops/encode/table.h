// The functions that exist once per instruction set.
#pragma once

#include "encode/jobs.h"

namespace onnxquant {

struct EncodeTable {
  void (*pack)(const PackJob&);
};

extern const EncodeTable kEncodeScalar;
#ifdef ONNXQUANT_X86
extern const EncodeTable kEncodeAvx2;
extern const EncodeTable kEncodeAvx512;
#endif

}  // namespace onnxquant
