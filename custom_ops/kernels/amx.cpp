// Many rows of one weight on AMX; few rows are left to the kernels of AVX-512 VNNI.
#include "kernels/amx.h"

namespace onnxquant::ONNXQUANT_ISA {

ManyRows many_rows(const Weights& weights);
ManyRows many_rows(const Weights& weights) { return select_many_rows(weights); }

}  // namespace onnxquant::ONNXQUANT_ISA
