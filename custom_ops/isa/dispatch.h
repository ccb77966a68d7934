// The instruction sets of this library, and which of them is used.
#pragma once

#include <string>

#include "calibration/observer_table.h"
#include "codes/code_map.h"
#include "encode/encoder_table.h"
#include "kernels/kernel_table.h"
#include "network/kernels.h"

namespace onnxquant {

// Everything that exists once per instruction set. Several may share kernels, or encoders and observers.
struct InstructionSet {
  const char* name;
  bool (*usable)();
  const KernelTable* kernels;
  ManyRows (*many_rows)(const Weights&);  // null: many rows are as few
  const NetworkTable* network;
  const EncoderTable* encoders;
  const ObserverTable* observers;
  CodeMapTable maps;
};

// The instruction set that the ops use now: the best one that runs here, or the cap below it.
const InstructionSet& instruction_set();

// The best one that runs here, whatever the cap.
const InstructionSet& best_instruction_set();

// Exactly this instruction set; nullptr or "" gives instruction_set(). Throws Error when it cannot run here.
const InstructionSet& instruction_set(const char* name);

// Uses no better instruction set than this from now on; nullptr or "" lifts the cap. Throws Error for an unknown name.
void cap_instruction_set(const char* name);

// Names separated by commas, the best one last.
std::string instruction_set_names(bool only_usable);

}  // namespace onnxquant
