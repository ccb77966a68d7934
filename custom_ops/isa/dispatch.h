// Which instruction set the kernels use.
#pragma once

#include <string>

#include "isa/kernel_table.h"

namespace onnxquant {

// The kernels that the ops use now: the best that runs here, or the cap below it.
const KernelTable& kernels();

// The kernels of exactly this instruction set; nullptr or "" gives kernels(). Throws Error when it cannot run here.
const KernelTable& kernels(const char* isa);

// Uses no better instruction set than this from now on; nullptr or "" lifts the cap. Throws Error for an unknown name.
void cap_isa(const char* isa);

// Names separated by commas, the best one last.
std::string isa_names(bool only_usable);

}  // namespace onnxquant
