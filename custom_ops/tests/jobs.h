// Encoders, decoders, surveys and packers: jobs are run again, and must answer what is written.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "encode/jobs.h"
#include "tests/cases.h"

extern "C" int onnxquant_encode(const onnxquant::EncodeJob* job);
extern "C" int onnxquant_survey(const onnxquant::SurveyJob* job);
extern "C" int onnxquant_pack_codes(const onnxquant::PackJob* job);

namespace onnxquant::tests {

// Memory that word `word` of a job points to.
struct Memory {
  std::string name;
  std::int64_t word;
  bool is_output;
  std::vector<std::uint8_t> bytes;

  explicit Memory(Reader& from)
      : name(from.text()), word(from.integer()), is_output(from.integer() != 0), bytes(from.array<std::uint8_t>()) {}
};

struct Job {
  std::string function;
  std::vector<std::int64_t> words;
  std::vector<Memory> memories;

  explicit Job(Reader& from) : function(from.text()), words(from.array<std::int64_t>()) {
    for (std::int64_t count = from.integer(); count > 0; --count) memories.emplace_back(from);
  }
};

inline int run(const std::string& function, const void* job) {
  if (function == "encode") return onnxquant_encode(static_cast<const EncodeJob*>(job));
  if (function == "survey") return onnxquant_survey(static_cast<const SurveyJob*>(job));
  return onnxquant_pack_codes(static_cast<const PackJob*>(job));
}

inline bool same(const Memory& expected, const std::vector<std::uint8_t>& bytes) {
  if (expected.name != "survey") return expected.bytes == bytes;
  Survey a, b;  // which has padding
  std::memcpy(&a, expected.bytes.data(), sizeof a);
  std::memcpy(&b, bytes.data(), sizeof b);
  return std::memcmp(&a, &b, offsetof(Survey, smallest) + sizeof a.smallest) == 0 && a.bad_row == b.bad_row && a.bad_col == b.bad_col;
}

inline void check_job(const Job& job, const char* instruction_set) {
  std::vector<std::int64_t> words = job.words;
  std::vector<std::vector<std::uint8_t>> memories(job.memories.size());
  const auto point = [&](std::int64_t word, const void* to) { words[static_cast<std::size_t>(word)] = reinterpret_cast<std::intptr_t>(to); };
  std::string format;
  point(1, instruction_set);
  for (std::size_t i = 0; i < memories.size(); ++i) {
    const Memory& memory = job.memories[i];
    if (memory.name == "isa") continue;
    if (memory.name == "format") format = reinterpret_cast<const char*>(memory.bytes.data());
    memories[i] = memory.is_output ? std::vector<std::uint8_t>(memory.bytes.size()) : memory.bytes;
    point(memory.word, memories[i].data());
  }
  if (run(job.function, words.data()) != 0) return fail("%s %s on %s: refused", job.function.c_str(), format.c_str(), instruction_set);
  for (std::size_t i = 0; i < memories.size(); ++i) {
    const Memory& memory = job.memories[i];
    if (!memory.is_output || same(memory, memories[i])) continue;
    fail("%s %s on %s: other %s", job.function.c_str(), format.c_str(), instruction_set, memory.name.c_str());
  }
}

}  // namespace onnxquant::tests
