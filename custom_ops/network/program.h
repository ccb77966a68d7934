// A part of a quantized network, as integers that say its steps, and the constants that they name.
//
// The integers are steps one after another: kind, then three lists, each with its length before it: numbers of the tensors that
// the step reads, inputs of the node that are its constants (-1: absent), and numbers of its own. Tensors 0 and so on are those that
// the part reads; each step computes the next one.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/weights.h"

namespace onnxquant {

enum class StepKind : std::int64_t {
  kConvolve = 1,
  kMap = 2,
  kAdd = 3,
  kMultiply = 4,
  kAverage = 5,
  kMaxPool = 6,
  kAveragePool = 7,
  kConcat = 8,
  kResize = 9,
  kSlice = 10,
};

struct StepRecord {
  StepKind kind;
  std::vector<std::size_t> tensors;
  std::vector<std::int64_t> constants, numbers;
};

// The steps of a program of a part with `inputs` tensors. Throws Error where integers are missing, too many, or name a tensor that is
// not computed before.
std::vector<StepRecord> parse_program(const std::vector<std::int64_t>& program, std::size_t inputs);

// A constant input of the node; its memory is read while the kernel is made.
struct Constant {
  Type type;
  const void* data;
  std::vector<std::int64_t> dims;

  std::int64_t count() const;
};

// Constants by the node's inputs, and tables of 256 codes.
class Constants {
 public:
  // `first` is the node's first constant input; those of types that no step reads are absent. `is_signed`: activations are int8.
  // Tables are given for the bytes of codes.
  Constants(std::size_t first, std::vector<std::optional<Constant>> constants, std::vector<std::uint8_t> tables, bool is_signed);

  bool is_signed() const { return is_signed_; }
  Type type(std::int64_t input) const { return any(input).type; }
  // Throws Error where there is none, or one of another type.
  const Constant& at(std::int64_t input, Type type) const;
  // A constant of one value.
  float scale(std::int64_t input) const;
  // A zero point as it is for codes without sign.
  std::uint8_t zero(std::int64_t input) const;
  // A code of the activations as it is without sign. Throws Error where it is none.
  std::uint8_t code(std::int64_t number) const;
  // `count` tables from `first` on, of codes without sign.
  const std::uint8_t* tables(std::int64_t first, std::int64_t count) const;

 private:
  const Constant& any(std::int64_t input) const;

  std::size_t first_;
  std::vector<std::optional<Constant>> constants_;
  std::vector<std::uint8_t> tables_;
  bool is_signed_;
};

}  // namespace onnxquant
