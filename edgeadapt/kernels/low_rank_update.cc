// LowRankUpdate: z = y + (x A) B, or z = y + (x A[i]) B[i] with i = index[batch row].
//
//   y  float32 [Bt, T, m]     x  float32 [Bt, T, d]     A  [d, r] or [n, d, r]     B  [r, m] or [n, r, m]
//   index  int64 [Bt], 0 <= index < n     scales  float32 [r] or [n, r]     z  float32 [Bt, T, m]
//
// A and B are both float32, both float16 or both int8; the latter are widened to float32 exactly. int8 factors, and
// only they, have scales. Per row: h = x A (r numbers), times the scales, then r scaled additions of B's rows.
#include "ops.h"

namespace edgeadapt {
namespace {

void AddProduct(const Vectors& v, const float* y, const float* h, const float* B, float* z, size_t r, size_t n) {
  v.add_product(y, h, B, z, r, n);
}
void AddProduct(const Vectors& v, const float* y, const float* h, const Half* B, float* z, size_t r, size_t n) {
  v.add_product_half(y, h, B, z, r, n);
}
void AddProduct(const Vectors& v, const float* y, const float* h, const int8_t* B, float* z, size_t r, size_t n) {
  v.add_product_int8(y, h, B, z, r, n);
}
void VectorMatrix(const Vectors& v, const float* x, const float* A, float* h, size_t n, size_t r) {
  v.vector_matrix(x, A, h, n, r);
}
void VectorMatrix(const Vectors& v, const float* x, const Half* A, float* h, size_t n, size_t r) {
  v.vector_matrix_half(x, A, h, n, r);
}
void VectorMatrix(const Vectors& v, const float* x, const int8_t* A, float* h, size_t n, size_t r) {
  v.vector_matrix_int8(x, A, h, n, r);
}

struct Sizes {
  size_t tokens, d, r, m;
};

// What the call is given; the factors of one adapter after the other.
struct Given {
  Tensor y, x, A, B, index, scales;
};

// One row of z; h is room for r numbers, scales may be null.
template <class Factor>
void UpdateRow(const Vectors& v, const Sizes& s, const float* y, const float* x, const Factor* A, const Factor* B,
               const float* scales, float* h, float* z) {
  VectorMatrix(v, x, A, h, s.d, s.r);
  for (size_t k = 0; scales != nullptr && k < s.r; ++k) h[k] *= scales[k];
  AddProduct(v, y, h, B, z, s.r, s.m);
}

struct LowRankUpdate : VectorKernel {
  static constexpr const char* kName = "LowRankUpdate";
  static constexpr Input kInputs[] = {{"y", kFloat},
                                      {"x", kFloat},
                                      {"A", kAny},
                                      {"B", kAny},
                                      {"index", kInt64, kOptional},
                                      {"scales", kFloat, kOptional}};
  static constexpr int kInPlace = 0;
  static constexpr int64_t kMostRank = 1024;

  OrtStatus* Compute(Context& context) const {
    Given given;
    Tensor* const inputs[] = {&given.y, &given.x, &given.A, &given.B, &given.index, &given.scales};
    for (size_t i = 0; i < 6; ++i) {
      if (OrtStatus* status = context.Get(i, kInputs[i], inputs[i])) return status;
    }
    if (OrtStatus* status = Check(context, given)) return status;
    float* z = nullptr;
    if (OrtStatus* status = context.Output(given.y, &z)) return status;
    if (given.A.type == kInt8) return Update<int8_t>(context, given, z);
    return given.A.type == kHalf ? Update<Half>(context, given, z) : Update<float>(context, given, z);
  }

  OrtStatus* Check(const Context& context, const Given& given) const {
    const auto& [y, x, A, B, index, scales] = given;
    if ((A.type != kFloat && A.type != kHalf && A.type != kInt8) || A.type != B.type) {
      return context.Invalid(
          "inputs 'A' and 'B' must both be float32, both float16 or both int8, not element types %d and %d",
          static_cast<int>(A.type), static_cast<int>(B.type));
    }
    if ((A.type == kInt8) != static_cast<bool>(scales)) {
      return context.Invalid("input 'scales' belongs to int8 factors, and they need it");
    }
    const int64_t any[] = {-1, -1, -1};
    if (OrtStatus* status = context.Expect(y, "y", 3, any)) return status;
    const int64_t x_shape[] = {y.shape[0], y.shape[1], -1};
    if (OrtStatus* status = context.Expect(x, "x", 3, x_shape)) return status;
    const size_t table = index ? 1 : 0;  // with an index the factors have a leading axis of n adapters
    const int64_t A_shape[] = {-1, x.shape[2], -1};
    if (OrtStatus* status = context.Expect(A, "A", 2 + table, A_shape + 1 - table)) return status;
    const int64_t n = index ? A.shape[0] : 1, r = A.shape[1 + table];
    if (r > kMostRank) {
      return context.Invalid("input 'A' has rank r = %lld; %lld is the most", static_cast<long long>(r),
                             static_cast<long long>(kMostRank));
    }
    const int64_t B_shape[] = {n, r, y.shape[2]};
    if (OrtStatus* status = context.Expect(B, "B", 2 + table, B_shape + 1 - table)) return status;
    const int64_t scales_shape[] = {n, r};
    if (scales) {
      if (OrtStatus* status = context.Expect(scales, "scales", 1 + table, scales_shape + 1 - table)) return status;
    }
    if (!index) return nullptr;
    if (OrtStatus* status = context.Expect(index, "index", 1, y.shape)) return status;
    for (size_t i = 0; i < index.dim(0); ++i) {
      const int64_t chosen = index.as<int64_t>()[i];
      if (chosen < 0 || chosen >= n) {
        return context.Invalid("index[%zu] is %lld; there are %lld adapters", i, static_cast<long long>(chosen),
                               static_cast<long long>(n));
      }
    }
    return nullptr;
  }

  template <class Factor>
  OrtStatus* Update(Context& context, const Given& given, float* z) const {
    const Tensor &y = given.y, &x = given.x, &A = given.A, &B = given.B, &index = given.index, &scales = given.scales;
    const Sizes s{y.dim(1), x.dim(2), A.dim(A.rank - 1), y.dim(2)};
    const size_t rows = y.dim(0) * s.tokens;
    const float* y_data = y.as<float>();
    if (s.m == 0) return nullptr;  // there may be any number of empty rows
    if (s.r == 0) {
      if (z != y_data) {
        for (size_t i = 0; i < rows * s.m; ++i) z[i] = y_data[i];
      }
      return nullptr;
    }
    return context.For(rows, rows * s.r * (s.d + s.m), [&](size_t begin, size_t end) {
      float h[kMostRank];
      for (size_t row = begin; row < end; ++row) {
        const size_t chosen = index ? static_cast<size_t>(index.as<int64_t>()[row / s.tokens]) : 0;
        UpdateRow(*vectors, s, y_data + row * s.m, x.as<float>() + row * s.d, A.as<Factor>() + chosen * s.d * s.r,
                  B.as<Factor>() + chosen * s.r * s.m, scales ? scales.as<float>() + chosen * s.r : nullptr, h,
                  z + row * s.m);
      }
    });
  }
};

}  // namespace

OrtCustomOp* MakeLowRankUpdate(const OrtApi* api) { return MakeOp<LowRankUpdate>(api); }

}  // namespace edgeadapt
