#include "network/program.h"

#include <cinttypes>
#include <utility>

#include "codes/code_map.h"
#include "kernels/error.h"

namespace onnxquant {
namespace {

// Takes integers from the front.
class Integers {
 public:
  explicit Integers(const std::vector<std::int64_t>& all) : all_(all) {}

  bool is_empty() const { return at_ == all_.size(); }

  std::int64_t next() {
    if (is_empty()) throw Error("program ends in the middle of a step, at integer %zu", at_);
    return all_[at_++];
  }

  std::vector<std::int64_t> list() {
    const std::int64_t count = next();
    if (count < 0 || static_cast<std::size_t>(count) > all_.size() - at_) {
      throw Error("program has a list of %" PRId64 " at integer %zu, with %zu behind it", count, at_ - 1, all_.size() - at_);
    }
    const auto begin = all_.begin() + static_cast<std::ptrdiff_t>(at_);
    at_ += static_cast<std::size_t>(count);
    return {begin, begin + count};
  }

 private:
  const std::vector<std::int64_t>& all_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<StepRecord> parse_program(const std::vector<std::int64_t>& program, std::size_t inputs) {
  std::vector<StepRecord> steps;
  Integers integers(program);
  while (!integers.is_empty()) {
    StepRecord step{};
    step.kind = static_cast<StepKind>(integers.next());
    for (const std::int64_t tensor : integers.list()) {
      if (tensor < 0 || static_cast<std::size_t>(tensor) >= inputs + steps.size()) {
        throw Error("step %zu reads tensor %" PRId64 ", expected one of the %zu before it", steps.size(), tensor,
                    inputs + steps.size());
      }
      step.tensors.push_back(static_cast<std::size_t>(tensor));
    }
    step.constants = integers.list();
    step.numbers = integers.list();
    steps.push_back(std::move(step));
  }
  constexpr std::size_t kMostSteps = 1 << 14;
  if (steps.size() > kMostSteps) throw Error("program has %zu steps, expected at most %zu", steps.size(), kMostSteps);
  if (steps.empty()) throw Error("program has no steps");
  return steps;
}

std::int64_t Constant::count() const {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) count *= dim;
  return count;
}

Constants::Constants(std::size_t first, std::vector<std::optional<Constant>> constants, std::vector<std::uint8_t> tables,
                     bool is_signed)
    : first_(first), constants_(std::move(constants)), tables_(std::move(tables)), is_signed_(is_signed) {
  if (!is_signed_) return;
  std::vector<std::uint8_t> moved(tables_.size());
  for (std::size_t i = 0; i < tables_.size(); ++i) moved[i ^ 0x80u] = tables_[i] ^ 0x80u;
  tables_ = std::move(moved);
}

const Constant& Constants::any(std::int64_t input) const {
  const auto first = static_cast<std::int64_t>(first_);
  const std::int64_t place = input < first ? -1 : input - first;
  if (place < 0 || static_cast<std::size_t>(place) >= constants_.size()) {
    throw Error("program names input %" PRId64 ", expected one of the constants %zu to %zu", input, first_,
                first_ + constants_.size() - 1);
  }
  const std::optional<Constant>& constant = constants_[static_cast<std::size_t>(place)];
  if (!constant) throw Error("constant input %" PRId64 " has the wrong element type", input);
  return *constant;
}

const Constant& Constants::at(std::int64_t input, Type type) const {
  const Constant& constant = any(input);
  if (constant.type != type) throw Error("constant input %" PRId64 " has the wrong element type", input);
  return constant;
}

float Constants::scale(std::int64_t input) const {
  const Constant& constant = at(input, Type::kFloat);
  if (constant.count() != 1) throw Error("scale %" PRId64 " has %" PRId64 " values, expected 1", input, constant.count());
  return *static_cast<const float*>(constant.data);
}

std::uint8_t Constants::zero(std::int64_t input) const {
  const Constant& constant = at(input, is_signed_ ? Type::kI8 : Type::kU8);
  if (constant.count() != 1) throw Error("zero point %" PRId64 " has %" PRId64 " values, expected 1", input, constant.count());
  const std::uint8_t byte = *static_cast<const std::uint8_t*>(constant.data);
  return is_signed_ ? byte ^ 0x80u : byte;
}

std::uint8_t Constants::code(std::int64_t number) const {
  const std::int64_t least = is_signed_ ? -128 : 0;
  if (number < least || number > least + 255) throw Error("%" PRId64 " is no code", number);
  return static_cast<std::uint8_t>(number - least);
}

const std::uint8_t* Constants::tables(std::int64_t first, std::int64_t count) const {
  const auto all = static_cast<std::int64_t>(tables_.size()) / kTableBytes;
  if (first < 0 || count < 1 || first > all - count) {
    throw Error("program names tables %" PRId64 " to %" PRId64 " of %" PRId64, first, first + count - 1, all);
  }
  return tables_.data() + first * kTableBytes;
}

}  // namespace onnxquant
