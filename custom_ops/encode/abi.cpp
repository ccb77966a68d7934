// The C ABI of encoders, decoders and packers: every job is checked before a pointer in it is followed.
#include <cinttypes>
#include <cstring>

#include "encode/table.h"
#include "guarded_call.h"
#include "isa/dispatch.h"
#include "kernels/error.h"

namespace onnxquant {
namespace {

bool starts(const char* name, const char* with) { return std::strncmp(name, with, std::strlen(with)) == 0; }

// By the kernels' instruction set, which is known to run here.
const EncodeTable& encoders(const char* isa) {
  [[maybe_unused]] const char* name = kernels(isa).name;
#ifdef ONNXQUANT_X86
  if (starts(name, "avx512") || starts(name, "amx")) return kEncodeAvx512;
  if (starts(name, "avx")) return kEncodeAvx2;
#endif
  return kEncodeScalar;
}

template <class Job>
void check_size(const Job* job) {
  if (job == nullptr) throw Error("the job is missing");
  if (job->size != static_cast<std::int64_t>(sizeof(Job))) {
    throw Error("a job of %" PRId64 " bytes, expected %zu: caller and library are not of one build", job->size, sizeof(Job));
  }
}

void check(const PackJob& job) {
  const char* layout = job.layout == nullptr ? "" : job.layout;
  const bool tiles = !std::strcmp(layout, "tiles"), rows = !std::strcmp(layout, "rows"), lanes = !std::strcmp(layout, "lanes");
  if (!tiles && !rows && !lanes) throw Error("layout '%.40s': expected tiles, rows or lanes", layout);
  const std::int64_t bits = job.bits;
  const bool known = lanes ? bits == 8 || bits == 16 || bits == 32
                           : bits == 2 || bits == 4 || bits == 8 || (tiles && (bits == 3 || bits == 5 || bits == 6));
  if (!known) throw Error("layout %s has no %" PRId64 " bits", layout, bits);
  if (job.rows < 0 || job.cols < 0 || job.padded < job.cols || job.stride < job.cols * (lanes ? bits / 8 : 1)) {
    throw Error("[%" PRId64 ", %" PRId64 "] codes, %" PRId64 " bytes from row to row, padded to %" PRId64 " columns",
                job.rows, job.cols, job.stride, job.padded);
  }
  // Whole words of the low plane; rows: whole bytes.
  const std::int64_t unit = lanes ? 1 : rows ? 8 / bits : 32 / (bits == 3 ? 2 : bits == 8 ? 8 : bits == 2 ? 2 : 4);
  if (job.padded % unit != 0) throw Error("%" PRId64 " padded columns, expected a multiple of %" PRId64, job.padded, unit);
  if (job.pad < 0 || job.pad > (lanes ? (std::int64_t{1} << bits) - 1 : 255)) throw Error("pad %" PRId64, job.pad);
  const bool split = tiles && (bits == 3 || bits == 5 || bits == 6);
  if (job.from == nullptr || job.low == nullptr || (split && job.high == nullptr)) throw Error("a plane is missing");
}

}  // namespace
}  // namespace onnxquant

using namespace onnxquant;  // NOLINT: the C ABI has no namespace of its own

ONNXQUANT_EXPORT int onnxquant_pack_codes(const PackJob* job) {
  return guarded_call([&] {
    check_size(job);
    check(*job);
    encoders(job->isa).pack(*job);
  });
}
