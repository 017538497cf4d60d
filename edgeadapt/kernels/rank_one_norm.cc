// RankOneNorm: h = a + b, h' = h + u (r^T h), y = gamma h' / sqrt(mean(h'^2) + epsilon).
//
//   a, b, y, s = h'  float32 [B, T, d]        r, u  float32 [B, 1, d]        gamma  float32 [d]
//
// h' is formed in s, row by row, and normalised from there.
#include <cmath>

#include "ops.h"

namespace edgeadapt {
namespace {

struct RankOneNorm : VectorKernel {
  static constexpr const char* kName = "RankOneNorm";
  static constexpr Input kInputs[] = {{"a", kFloat}, {"b", kFloat}, {"r", kFloat}, {"u", kFloat}, {"gamma", kFloat}};
  static constexpr int kInPlace = -1;
  static constexpr size_t kOutputs = 2;

  float epsilon;

  OrtStatus* Load(const NodeInfo& node) {
    if (OrtStatus* status = node.Get("epsilon", &epsilon)) return status;
    return epsilon > 0 ? nullptr : node.Invalid("attribute 'epsilon' is %g; it must be positive", epsilon);
  }

  OrtStatus* Compute(Context& context) const {
    Tensor a, b, r, u, gamma;
    if (OrtStatus* status = context.Get(0, kInputs[0], &a)) return status;
    if (OrtStatus* status = context.Get(1, kInputs[1], &b)) return status;
    if (OrtStatus* status = context.Get(2, kInputs[2], &r)) return status;
    if (OrtStatus* status = context.Get(3, kInputs[3], &u)) return status;
    if (OrtStatus* status = context.Get(4, kInputs[4], &gamma)) return status;
    const int64_t any[] = {-1, -1, -1};
    if (OrtStatus* status = context.Expect(a, "a", 3, any)) return status;
    if (OrtStatus* status = context.Expect(b, "b", 3, a.shape)) return status;
    const int64_t row_shape[] = {a.shape[0], 1, a.shape[2]};
    if (OrtStatus* status = context.Expect(r, "r", 3, row_shape)) return status;
    if (OrtStatus* status = context.Expect(u, "u", 3, row_shape)) return status;
    if (OrtStatus* status = context.Expect(gamma, "gamma", 1, row_shape + 2)) return status;
    float *y = nullptr, *s = nullptr;
    if (OrtStatus* status = context.Output(a, &y, 0)) return status;
    if (OrtStatus* status = context.Output(a, &s, 1)) return status;

    const size_t tokens = a.dim(1), d = a.dim(2), rows = a.dim(0) * tokens;
    if (d == 0) return nullptr;  // there may be any number of empty rows
    return context.For(rows, rows * d * 4, [&](size_t begin, size_t end) {
      for (size_t row = begin; row < end; ++row) {
        const size_t at = row * d, of = row / tokens * d;
        float* h = s + at;
        vectors->axpy(a.as<float>() + at, 1.0f, b.as<float>() + at, h, d);
        vectors->axpy(h, vectors->dot(h, r.as<float>() + of, d), u.as<float>() + of, h, d);
        const float mean = vectors->dot(h, h, d) / static_cast<float>(d);
        vectors->scaled_product(1.0f / std::sqrt(mean + epsilon), h, gamma.as<float>(), y + at, d);
      }
    });
  }
};

}  // namespace

OrtCustomOp* MakeRankOneNorm(const OrtApi* api) { return MakeOp<RankOneNorm>(api); }

}  // namespace edgeadapt
