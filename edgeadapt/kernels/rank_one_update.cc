// RankOneUpdate: z = u (r^T x).
//
//   x, z  float32 [B, T, d]        r, u  float32 [B, 1, d]
//
// One dot product and one scaled copy per (batch, token) row; a row is read before it is written, so z may take x's
// buffer.
#include "ops.h"

namespace edgeadapt {
namespace {

struct RankOneUpdate : VectorKernel {
  static constexpr const char* kName = "RankOneUpdate";
  static constexpr Input kInputs[] = {{"x", kFloat}, {"r", kFloat}, {"u", kFloat}};
  static constexpr int kInPlace = 0;

  OrtStatus* Compute(Context& context) const {
    Tensor x, r, u;
    if (OrtStatus* status = context.Get(0, kInputs[0], &x)) return status;
    if (OrtStatus* status = context.Get(1, kInputs[1], &r)) return status;
    if (OrtStatus* status = context.Get(2, kInputs[2], &u)) return status;
    const int64_t any[] = {-1, -1, -1};
    if (OrtStatus* status = context.Expect(x, "x", 3, any)) return status;
    const int64_t row_shape[] = {x.shape[0], 1, x.shape[2]};
    if (OrtStatus* status = context.Expect(r, "r", 3, row_shape)) return status;
    if (OrtStatus* status = context.Expect(u, "u", 3, row_shape)) return status;
    float* z = nullptr;
    if (OrtStatus* status = context.Output(x, &z)) return status;

    const size_t tokens = x.dim(1), d = x.dim(2), rows = x.dim(0) * tokens;
    if (d == 0) return nullptr;  // there may be any number of empty rows
    return context.For(rows, rows * d * 2, [&](size_t begin, size_t end) {
      for (size_t row = begin; row < end; ++row) {
        const size_t at = row * d, of = row / tokens * d;
        const float dot = vectors->dot(x.as<float>() + at, r.as<float>() + of, d);
        vectors->scale(dot, u.as<float>() + of, z + at, d);
      }
    });
  }
};

}  // namespace

OrtCustomOp* MakeRankOneUpdate(const OrtApi* api) { return MakeOp<RankOneUpdate>(api); }

}  // namespace edgeadapt
