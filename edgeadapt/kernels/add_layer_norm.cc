// AddLayerNorm: h = a + b, y = gamma (h - mean(h)) / sqrt(mean((h - mean(h))^2) + epsilon) + beta.
//
//   a, b, y  float32 [..., d]        gamma, beta  float32 [d]
//
// Three walks over a row, of which h stays in y; four numbers at a time on every processor, as in tanh_gelu.cc. A row
// is read before it is written, so y may take a's buffer.
#include <cmath>

#include "fours.h"
#include "ops.h"

namespace edgeadapt {
namespace {

inline float Sum(Four a, Four b) {
  const Four v = a + b;
  return (v[0] + v[1]) + (v[2] + v[3]);
}

void Row(const float* a, const float* b, const float* gamma, const float* beta, float epsilon, float* y, size_t d) {
  const size_t whole = d / 8 * 8;
  Four sums[2] = {};
  for (size_t i = 0; i < whole; i += 8) {
    const Four first = LoadFour(a + i) + LoadFour(b + i), second = LoadFour(a + i + 4) + LoadFour(b + i + 4);
    StoreFour(y + i, first);
    StoreFour(y + i + 4, second);
    sums[0] += first;
    sums[1] += second;
  }
  float mean = Sum(sums[0], sums[1]);
  for (size_t i = whole; i < d; ++i) mean += y[i] = a[i] + b[i];
  mean /= static_cast<float>(d);

  Four squares[2] = {};
  for (size_t i = 0; i < whole; i += 8) {
    const Four first = LoadFour(y + i) - mean, second = LoadFour(y + i + 4) - mean;
    squares[0] += first * first;
    squares[1] += second * second;
  }
  float variance = Sum(squares[0], squares[1]);
  for (size_t i = whole; i < d; ++i) variance += (y[i] - mean) * (y[i] - mean);
  const float scale = 1.0f / std::sqrt(variance / static_cast<float>(d) + epsilon);

  for (size_t i = 0; i < whole; i += 8) {
    const Four first = (LoadFour(y + i) - mean) * scale, second = (LoadFour(y + i + 4) - mean) * scale;
    StoreFour(y + i, first * LoadFour(gamma + i) + LoadFour(beta + i));
    StoreFour(y + i + 4, second * LoadFour(gamma + i + 4) + LoadFour(beta + i + 4));
  }
  for (size_t i = whole; i < d; ++i) y[i] = (y[i] - mean) * scale * gamma[i] + beta[i];
}

struct AddLayerNorm : PlainKernel {
  static constexpr const char* kName = "AddLayerNorm";
  static constexpr Input kInputs[] = {{"a", kFloat}, {"b", kFloat}, {"gamma", kFloat}, {"beta", kFloat}};
  static constexpr int kInPlace = 0;

  float epsilon;

  OrtStatus* Load(const NodeInfo& node) {
    if (OrtStatus* status = node.Get("epsilon", &epsilon)) return status;
    return epsilon > 0 ? nullptr : node.Invalid("attribute 'epsilon' is %g; it must be positive", epsilon);
  }

  OrtStatus* Compute(Context& context) const {
    Tensor a, b, gamma, beta;
    if (OrtStatus* status = context.Get(0, kInputs[0], &a)) return status;
    if (OrtStatus* status = context.Get(1, kInputs[1], &b)) return status;
    if (OrtStatus* status = context.Get(2, kInputs[2], &gamma)) return status;
    if (OrtStatus* status = context.Get(3, kInputs[3], &beta)) return status;
    if (a.rank < 1) return context.Invalid("input 'a' is a scalar, expected [..., d]");
    if (OrtStatus* status = context.Expect(b, "b", a.rank, a.shape)) return status;
    const int64_t* const row = a.shape + a.rank - 1;
    if (OrtStatus* status = context.Expect(gamma, "gamma", 1, row)) return status;
    if (OrtStatus* status = context.Expect(beta, "beta", 1, row)) return status;
    float* y = nullptr;
    if (OrtStatus* status = context.Output(a, &y)) return status;

    const size_t d = a.dim(a.rank - 1);
    if (d == 0) return nullptr;  // there may be any number of empty rows
    const size_t rows = a.size() / d;
    return context.For(rows, rows * d * 4, [&](size_t begin, size_t end) {
      for (size_t at = begin * d; at < end * d; at += d) {
        Row(a.as<float>() + at, b.as<float>() + at, gamma.as<float>(), beta.as<float>(), epsilon, y + at, d);
      }
    });
  }
};

}  // namespace

OrtCustomOp* MakeAddLayerNorm(const OrtApi* api) { return MakeOp<AddLayerNorm>(api); }

}  // namespace edgeadapt
