// RankOneUpdate: z = y + g r (r^T x), or z = y + g r (r^T (x + b)) when the addend b is given.
//
//   y, x, b  float32 [B, T, d]        r  float32 [B, d]        g  float32 [B, 1]        z  float32 [B, T, d]
//
// One dot product and one scaled addition per (batch, token) row; both read a row before they write it, so z may take
// y's buffer, also where y and x are one tensor.
#include "ops.h"

namespace edgeadapt {
namespace {

struct RankOneUpdate {
  static constexpr const char* kName = "RankOneUpdate";
  static constexpr Input kInputs[] = {
      {"y", kFloat}, {"x", kFloat}, {"r", kFloat}, {"g", kFloat}, {"b", kFloat, kOptional}};
  static constexpr int kInPlace = 0;

  const Vectors* vectors;

  OrtStatus* Compute(Context& context) const {
    Tensor y, x, r, g, b;
    if (OrtStatus* status = context.Get(0, kInputs[0], &y)) return status;
    if (OrtStatus* status = context.Get(1, kInputs[1], &x)) return status;
    if (OrtStatus* status = context.Get(2, kInputs[2], &r)) return status;
    if (OrtStatus* status = context.Get(3, kInputs[3], &g)) return status;
    if (OrtStatus* status = context.Get(4, kInputs[4], &b)) return status;
    const int64_t any[] = {-1, -1, -1};
    if (OrtStatus* status = context.Expect(y, "y", 3, any)) return status;
    const int64_t batch = y.shape[0], width = y.shape[2];
    const int64_t r_shape[] = {batch, width}, g_shape[] = {batch, 1};
    if (OrtStatus* status = context.Expect(x, "x", 3, y.shape)) return status;
    if (OrtStatus* status = context.Expect(r, "r", 2, r_shape)) return status;
    if (OrtStatus* status = context.Expect(g, "g", 2, g_shape)) return status;
    if (b) {
      if (OrtStatus* status = context.Expect(b, "b", 3, y.shape)) return status;
    }
    float* z = nullptr;
    if (OrtStatus* status = context.Output(y, &z)) return status;

    const size_t tokens = y.dim(1), d = y.dim(2), rows = y.dim(0) * tokens;
    return context.For(rows, rows * d * 2, [&](size_t begin, size_t end) {
      for (size_t row = begin; row < end; ++row) {
        const size_t of = row / tokens, at = row * d;
        const float* direction = r.as<float>() + of * d;
        const float* in = x.as<float>() + at;
        const float dot = b ? vectors->dot_sum(in, b.as<float>() + at, direction, d) : vectors->dot(in, direction, d);
        vectors->axpy(y.as<float>() + at, dot * g.as<float>()[of], direction, z + at, d);
      }
    });
  }
};

}  // namespace

OrtCustomOp* MakeRankOneUpdate(const OrtApi* api) { return MakeOp<RankOneUpdate>(api); }

}  // namespace edgeadapt
