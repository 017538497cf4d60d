// AtomRoute: u = h / ||h||, s = (u W) K + bias, index = the k largest scores (ties: the smaller first),
// weight = softmax over them.
//
//   h     float32 [B, T, d]     W       float32 [d, r]     K  float32 [r, M]     bias  float32 [B, 1, M]
//   index int64   [B, T, k]     weight  float32 [B, T, k]  k  attribute, 1 <= k <= min(M, 8)
//
// The norm divides the r numbers u W instead of the d numbers h. An index is always valid; where scores are NaN it says
// nothing, and the weights are NaN.
#include <cmath>

#include "ops.h"

namespace edgeadapt {
namespace {

constexpr int64_t kMost = 8;          // atoms of a token
constexpr int64_t kMostWidth = 256;   // r
constexpr int64_t kMostAtoms = 1024;  // M

// The indices of the k largest scores, best first.
void Largest(const float* scores, size_t atoms, size_t k, int64_t* best) {
  size_t count = 0;
  for (size_t m = 0; m < atoms; ++m) {
    size_t place = count;
    while (place > 0 && scores[m] > scores[best[place - 1]]) --place;
    if (place == k) continue;
    if (count < k) ++count;
    for (size_t j = count - 1; j > place; --j) best[j] = best[j - 1];
    best[place] = static_cast<int64_t>(m);
  }
}

struct AtomRoute : VectorKernel {
  static constexpr const char* kName = "AtomRoute";
  static constexpr Input kInputs[] = {{"h", kFloat}, {"W", kFloat}, {"K", kFloat}, {"bias", kFloat}};
  static constexpr int kInPlace = -1;
  static constexpr size_t kOutputs = 2;
  static constexpr ONNXTensorElementDataType kOutputTypes[] = {kInt64, kFloat};
  static constexpr const char* kWidth = "k";

  int64_t k;

  OrtStatus* Load(const NodeInfo& node) { return node.Get("k", 1, kMost, &k); }

  OrtStatus* Compute(Context& context) const {
    Tensor h, W, K, bias;
    if (OrtStatus* status = context.Get(0, kInputs[0], &h)) return status;
    if (OrtStatus* status = context.Get(1, kInputs[1], &W)) return status;
    if (OrtStatus* status = context.Get(2, kInputs[2], &K)) return status;
    if (OrtStatus* status = context.Get(3, kInputs[3], &bias)) return status;
    const int64_t any[] = {-1, -1, -1};
    if (OrtStatus* status = context.Expect(h, "h", 3, any)) return status;
    if (h.shape[2] == 0) return context.Invalid("input 'h' has width 0; a token needs at least one number");
    const int64_t W_shape[] = {h.shape[2], -1};
    if (OrtStatus* status = context.Expect(W, "W", 2, W_shape)) return status;
    const int64_t K_shape[] = {W.shape[1], -1};
    if (OrtStatus* status = context.Expect(K, "K", 2, K_shape)) return status;
    const int64_t bias_shape[] = {h.shape[0], 1, K.shape[1]};
    if (OrtStatus* status = context.Expect(bias, "bias", 3, bias_shape)) return status;
    if (K.shape[0] > kMostWidth || K.shape[1] > kMostAtoms || K.shape[1] < k) {
      return context.Invalid("input 'K' has shape [%lld, %lld]; r is at most %lld and M between k = %lld and %lld",
                             static_cast<long long>(K.shape[0]), static_cast<long long>(K.shape[1]),
                             static_cast<long long>(kMostWidth), static_cast<long long>(k),
                             static_cast<long long>(kMostAtoms));
    }
    const auto chosen = static_cast<size_t>(k);
    int64_t* index = nullptr;
    float* weight = nullptr;
    if (OrtStatus* status = context.OutputOfWidth(h, chosen, &index, 0)) return status;
    if (OrtStatus* status = context.OutputOfWidth(h, chosen, &weight, 1)) return status;

    const size_t tokens = h.dim(1), d = h.dim(2), r = K.dim(0), atoms = K.dim(1), rows = h.dim(0) * tokens;
    return context.For(rows, rows * r * (d + atoms), [&](size_t begin, size_t end) {
      float query[kMostWidth], scores[kMostAtoms];
      for (size_t row = begin; row < end; ++row) {
        const float* x = h.as<float>() + row * d;
        const float norm = std::sqrt(vectors->dot(x, x, d));
        vectors->vector_matrix(x, W.as<float>(), query, d, r);
        vectors->scale(norm != 0.0f ? 1.0f / norm : 0.0f, query, query, r);
        vectors->add_product(bias.as<float>() + row / tokens * atoms, query, K.as<float>(), scores, r, atoms);
        int64_t* best = index + row * chosen;
        Largest(scores, atoms, chosen, best);
        float* share = weight + row * chosen;
        float sum = 0.0f;
        for (size_t j = 0; j < chosen; ++j) sum += share[j] = std::exp(scores[best[j]] - scores[best[0]]);
        vectors->scale(1.0f / sum, share, share, chosen);
      }
    });
  }
};

}  // namespace

OrtCustomOp* MakeAtomRoute(const OrtApi* api) { return MakeOp<AtomRoute>(api); }

}  // namespace edgeadapt
