// The C ABI of encoders, decoders and packers: every job is checked before a pointer in it is followed.
#include <cinttypes>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "encode/encoder_table.h"
#include "guarded_call.h"
#include "isa/dispatch.h"
#include "kernels/error.h"
#include "kernels/scratch.h"

namespace onnxquant {
namespace {

const Encoder& encoder_of(const EncoderTable& encoders, const char* format) {
  for (const Encoder& encoder : encoders) {
    if (format != nullptr && encoder.run != nullptr && std::strcmp(format, encoder.name) == 0) return encoder;
  }
  throw Error("no encoder is called '%.40s'", format == nullptr ? "" : format);
}

std::string encoder_names() {
  std::string names;
  for (const Encoder& encoder : *instruction_set().encoders) {
    if (encoder.run != nullptr) names += (names.empty() ? "" : ",") + std::string(encoder.name);
  }
  return names;
}

template <class Job>
void check_size(const Job* job) {
  if (job == nullptr) throw Error("the job is missing");
  if (job->size != static_cast<std::int64_t>(sizeof(Job))) {
    throw Error("a job of %" PRId64 " bytes, expected %zu: caller and library are not of one build", job->size, sizeof(Job));
  }
}

bool aligned(const void* data, std::int64_t to) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(to) == 0;
}

void check(const PackJob& job) {
  const char* layout = job.layout == nullptr ? "" : job.layout;
  const bool tiles = !std::strcmp(layout, "tiles"), rows = !std::strcmp(layout, "rows");
  if (!tiles && !rows) throw Error("layout '%.40s': expected tiles or rows", layout);
  const std::int64_t bits = job.bits;
  const bool known = bits == 2 || bits == 4 || bits == 8 || (tiles && (bits == 3 || bits == 5 || bits == 6));
  if (!known) throw Error("layout %s has no %" PRId64 " bits", layout, bits);
  if (job.rows < 0 || job.cols < 0 || job.padded < job.cols || job.stride < job.cols) {
    throw Error("[%" PRId64 ", %" PRId64 "] codes, %" PRId64 " bytes from row to row, padded to %" PRId64 " columns",
                job.rows, job.cols, job.stride, job.padded);
  }
  // Whole words of the low plane; rows: whole bytes.
  const std::int64_t unit = rows ? 8 / bits : 32 / (bits == 3 ? 2 : bits == 8 ? 8 : bits == 2 ? 2 : 4);
  if (job.padded % unit != 0) throw Error("%" PRId64 " padded columns, expected a multiple of %" PRId64, job.padded, unit);
  if (job.pad < 0 || job.pad > 255) throw Error("pad %" PRId64, job.pad);
  const bool split = tiles && (bits == 3 || bits == 5 || bits == 6);
  if (job.from == nullptr || job.low == nullptr || (split && job.high == nullptr)) throw Error("a plane is missing");
}

void need(const void* pointer, bool needed, const char* what, const char* format) {
  if (needed && pointer == nullptr) throw Error("%s: %s missing", format, what);
}

void check_sizes(std::int64_t rows, std::int64_t cols) {
  constexpr std::int64_t kMost = std::int64_t{1} << 31;
  if (rows < 0 || cols < 0 || rows >= kMost || cols >= kMost) throw Error("a weight of [%" PRId64 ", %" PRId64 "]", rows, cols);
}

void check_columns(const std::int32_t* columns, std::int64_t count, std::int64_t cols, const char* what) {
  for (std::int64_t i = 0; columns != nullptr && i < count; ++i) {
    if (columns[i] < 0 || columns[i] >= cols) throw Error("%s %d of %" PRId64 " columns", what, columns[i], cols);
  }
}

void check(const Source& source, std::int64_t rows, std::int64_t cols) {
  if (source.type < 0 || source.type > 3) throw Error("element type %" PRId64 ", expected 0 to 3", source.type);
  if (source.data == nullptr && rows > 0 && cols > 0) throw Error("the weight is missing");
  constexpr std::int64_t kSizes[] = {4, 2, 2, 8};
  if (!aligned(source.data, kSizes[source.type])) throw Error("the weight is not aligned");
  check_columns(source.columns, cols, cols, "the permutation names column");
}

Action action_of(const char* name) {
  const struct {
    const char* name;
    Action action;
  } all[] = {{"encode", Action::kEncode}, {"measure", Action::kMeasure}, {"decode", Action::kDecode}};
  for (const auto& one : all) {
    if (name != nullptr && std::strcmp(name, one.name) == 0) return one.action;
  }
  throw Error("action '%.40s': expected encode, measure or decode", name == nullptr ? "" : name);
}

void check_planes(const EncodeJob& job, const EncoderTraits& traits) {
  const bool minima = has_minimum_factors(traits.side);
  need(job.codes, true, "codes are", job.format);
  need(job.scales, traits.scale_type != ScaleType::kNone, "scales are", job.format);
  need(job.seconds, minima || traits.side == Side::kMinima || job.zero_point != 0, "minima or zero points are", job.format);
  need(job.subscales, has_factors(traits.side), "subscales are", job.format);
  need(job.subminima, minima, "subminima are", job.format);
}

void check_inputs(const EncodeJob& job, const EncoderTraits& traits, bool encode) {
  need(job.table, (traits.inputs & kValueTable) != 0, "the table is", job.format);
  if (!encode) return;
  need(job.shared, (traits.inputs & kSharedScale) != 0, "the scale is", job.format);
  if ((traits.inputs & kLevels) == 0) return;
  need(job.levels, true, "levels are", job.format);
  need(job.level_codes, true, "codes of levels are", job.format);
  need(job.bounds, true, "bounds are", job.format);
  need(job.starts, true, "starts are", job.format);
  if (job.level_count < 2 || job.level_count > 256) throw Error("%s: %" PRId64 " levels", job.format, job.level_count);
}

void check_outliers(const EncodeJob& job) {
  if (job.outlier_count < 0 || job.outlier_count > job.cols) throw Error("%" PRId64 " outliers", job.outlier_count);
  need(job.outlier_columns, job.outlier_count > 0, "outlier columns are", job.format);
  need(job.seconds, job.outlier_count > 0, "outliers are", job.format);
  check_columns(job.outlier_columns, job.outlier_count, job.cols, "outliers are in column");
  for (std::int64_t i = 1; i < job.outlier_count; ++i) {
    if (job.outlier_columns[i] <= job.outlier_columns[i - 1]) throw Error("columns of outliers are not in ascending order");
  }
}

Action check(const EncodeJob& job, const EncoderTraits& traits) {
  const Action action = action_of(job.action);
  check_sizes(job.rows, job.cols);
  if (action == Action::kDecode) {
    check_columns(job.source.columns, job.cols, job.cols, "the permutation names column");
    need(job.decoded, true, "the decoded weight is", job.format);
  } else {
    check(job.source, job.rows, job.cols);
    need(job.statistics, true, "statistics are", job.format);
  }
  if (job.group < 0 || job.group > 65536 || job.group % 16 != 0 || (traits.group != 0 && job.group != traits.group)) {
    throw Error("%s: groups of %" PRId64 " weights", job.format, job.group);
  }
  if ((traits.inputs & kLevels) != 0 && (job.group == 0 || job.cols % job.group != 0)) {
    throw Error("%s: %" PRId64 " columns in groups of %" PRId64, job.format, job.cols, job.group);
  }
  if (job.zero_point < 0 || job.zero_point > ((traits.inputs & kZeroPoint) != 0 ? 2 : 0)) {
    throw Error("%s: zero point %" PRId64, job.format, job.zero_point);
  }
  if (job.first_row < 0) throw Error("first row %" PRId64, job.first_row);
  check_planes(job, traits);
  check_inputs(job, traits, action == Action::kEncode);
  if (traits.side == Side::kOutliers) check_outliers(job);
  return action;
}

}  // namespace
}  // namespace onnxquant

using namespace onnxquant;  // NOLINT: the C ABI has no namespace of its own

// Names of the formats that have an encoder, separated by commas.
ONNXQUANT_EXPORT const char* onnxquant_encoders() {
  return guarded_text([] {
    static const std::string names = encoder_names();
    return names.c_str();
  });
}

ONNXQUANT_EXPORT int onnxquant_pack_codes(const PackJob* job) {
  return guarded_call([&] {
    check_size(job);
    check(*job);
    instruction_set(job->isa).encoders->pack(*job);
  });
}

ONNXQUANT_EXPORT int onnxquant_encode(const EncodeJob* job) {
  return guarded_call([&] {
    check_size(job);
    const EncoderTable& table = *instruction_set(job->isa).encoders;
    const Encoder& encoder = encoder_of(table, job->format);
    const Action action = check(*job, encoder.traits);
    if (job->statistics != nullptr) *job->statistics = Statistics{0, 0, 0, 0, 0, 0, -1, -1};
    if (job->rows == 0 || job->cols == 0) return;
    const auto floats = static_cast<std::size_t>(table.scratch(job->cols, job->group));
    Scratch scratch(Scratch::size_of<float>(floats));
    encoder.run(*job, action, scratch.take<float>(floats));
    if (action != Action::kDecode) job->statistics->worst = std::sqrt(job->statistics->worst);
  });
}

ONNXQUANT_EXPORT int onnxquant_survey(const SurveyJob* job) {
  return guarded_call([&] {
    check_size(job);
    check_sizes(job->rows, job->cols);
    check(job->source, job->rows, job->cols);
    if (job->survey == nullptr) throw Error("the survey is missing");
    *job->survey = Survey{0, INFINITY, -INFINITY, INFINITY, -1, -1};
    if (job->rows == 0 || job->cols == 0) return;
    const EncoderTable& table = *instruction_set(job->isa).encoders;
    const auto floats = static_cast<std::size_t>(table.scratch(job->cols, 16));
    Scratch scratch(Scratch::size_of<float>(floats));
    table.survey(*job, scratch.take<float>(floats));
  });
}
