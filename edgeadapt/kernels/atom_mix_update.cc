// AtomMixUpdate: z[c] = y[c] + sum_j weight_j g[row, i, s] (V[i, s] . x) U[i, c], i = index_j, for the columns c of
// each segment s.
//
//   y  float32 [B, T, m]     x  float32 [B, T, d]     columns  int64 [S, 2], first column and past-the-last
//   atoms  float32 [M, m + reads d + R S], a row per atom: U[i] | V[i, s] of each reading | g[r, i, s] of each block
//   index  int64 [B, T, k]   weight  float32 [B, T, k]     row, reads  attributes; reads = S or 1
//
// Per token and atom: `reads` dot products and S scaled additions to slices of z. Only the k atoms that a token mixes
// are read.
#include <cstring>

#include "ops.h"

namespace edgeadapt {
namespace {

enum In : size_t { kY, kX, kAtoms, kColumns, kIndex, kWeight, kInputCount };

struct AtomMixUpdate : VectorKernel {
  static constexpr const char* kName = "AtomMixUpdate";
  static constexpr Input kInputs[kInputCount] = {{"y", kFloat},       {"x", kFloat},     {"atoms", kFloat},
                                                 {"columns", kInt64}, {"index", kInt64}, {"weight", kFloat}};
  static constexpr int kInPlace = 0;

  int64_t row, reads;
  Tensor columns;  // where they are constant
  bool constant;

  OrtStatus* Load(const NodeInfo& node) {
    constant = true;
    if (OrtStatus* status = node.Get("row", 0, INT32_MAX, &row)) return status;
    if (OrtStatus* status = node.Get("reads", 1, INT32_MAX, &reads)) return status;
    return node.Constant(kColumns, kInputs[kColumns], &columns, &constant);
  }

  OrtStatus* Compute(Context& context) const {
    Tensor in[kInputCount];
    for (size_t i = 0; i < kInputCount; ++i) {
      if (i == kColumns && constant) {
        in[i] = columns;
      } else if (OrtStatus* status = context.Get(i, kInputs[i], &in[i])) {
        return status;
      }
    }
    if (OrtStatus* status = Check(context, in)) return status;
    float* z = nullptr;
    if (OrtStatus* status = context.Output(in[kY], &z)) return status;

    const size_t rows = in[kY].dim(0) * in[kY].dim(1), m = in[kY].dim(2), d = in[kX].dim(2), k = in[kIndex].dim(2);
    if (rows == 0 || m == 0) return nullptr;  // there may be any number of empty rows
    const float *y = in[kY].as<float>(), *x = in[kX].as<float>(), *weight = in[kWeight].as<float>();
    const int64_t* index = in[kIndex].as<int64_t>();
    return context.For(rows, rows * k * (static_cast<size_t>(reads) * d + m), [&](size_t begin, size_t end) {
      if (z != y) std::memcpy(z + begin * m, y + begin * m, (end - begin) * m * sizeof(float));
      for (size_t at = begin; at < end; ++at) {
        for (size_t j = at * k; j < (at + 1) * k; ++j) {
          AddAtom(in, static_cast<size_t>(index[j]), weight[j], x + at * d, z + at * m);
        }
      }
    });
  }

  // z += weight g[row, i, s] (V[i, s] . x) U[i, its columns], every segment s.
  void AddAtom(const Tensor (&in)[kInputCount], size_t i, float weight, const float* x, float* z) const {
    const size_t segments = in[kColumns].dim(0), read = static_cast<size_t>(reads), d = in[kX].dim(2);
    const float* u = in[kAtoms].as<float>() + i * in[kAtoms].dim(1);
    const float* v = u + in[kY].dim(2);
    const float* g = v + read * d + static_cast<size_t>(row) * segments;
    float inner = 0.0f;
    for (size_t s = 0; s < segments; ++s) {
      if (s < read) inner = vectors->dot(v + s * d, x, d);
      const auto first = static_cast<size_t>(in[kColumns].as<int64_t>()[2 * s]);
      const auto end = static_cast<size_t>(in[kColumns].as<int64_t>()[2 * s + 1]);
      if (first < end) vectors->axpy(z + first, weight * g[s] * inner, u + first, z + first, end - first);
    }
  }

  OrtStatus* Check(const Context& context, const Tensor (&in)[kInputCount]) const {
    const int64_t any[] = {-1, -1, -1};
    if (OrtStatus* status = context.Expect(in[kY], "y", 3, any)) return status;
    const int64_t batch = in[kY].shape[0], tokens = in[kY].shape[1], m = in[kY].shape[2];
    const int64_t x_shape[] = {batch, tokens, -1};
    if (OrtStatus* status = context.Expect(in[kX], "x", 3, x_shape)) return status;
    const int64_t columns_shape[] = {-1, 2};
    if (OrtStatus* status = context.Expect(in[kColumns], "columns", 2, columns_shape)) return status;
    if (OrtStatus* status = context.Expect(in[kAtoms], "atoms", 2, any)) return status;
    if (OrtStatus* status = CheckRow(context, in[kAtoms].shape[1], m, in[kX].shape[2], in[kColumns].shape[0])) {
      return status;
    }
    if (OrtStatus* status = context.Expect(in[kIndex], "index", 3, x_shape)) return status;
    if (OrtStatus* status = context.Expect(in[kWeight], "weight", 3, in[kIndex].shape)) return status;
    if (in[kIndex].shape[2] == 0) return context.Invalid("input 'index' holds no atom; k must be 1 at least");
    for (size_t s = 0; s < in[kColumns].dim(0); ++s) {
      const int64_t first = in[kColumns].as<int64_t>()[2 * s], end = in[kColumns].as<int64_t>()[2 * s + 1];
      if (first < 0 || first > m || end < 0 || end > m) {
        return context.Invalid("columns[%zu] is %lld..%lld; a segment lies within 0..%lld", s,
                               static_cast<long long>(first), static_cast<long long>(end), static_cast<long long>(m));
      }
    }
    const int64_t atoms = in[kAtoms].shape[0];
    for (size_t j = 0; j < in[kIndex].size(); ++j) {
      const int64_t chosen = in[kIndex].as<int64_t>()[j];
      if (chosen < 0 || chosen >= atoms) {
        return context.Invalid("index[%zu] is %lld; there are %lld atoms", j, static_cast<long long>(chosen),
                               static_cast<long long>(atoms));
      }
    }
    return nullptr;
  }

  // That `width` numbers hold U, V and the gains of the blocks up to this one. Nothing overflows, whatever they are.
  OrtStatus* CheckRow(const Context& context, int64_t width, int64_t m, int64_t d, int64_t segments) const {
    if (reads != 1 && reads != segments) {
      return context.Invalid("attribute 'reads' is %lld; it must be 1, or one for each of %lld segments",
                             static_cast<long long>(reads), static_cast<long long>(segments));
    }
    if (m <= width && d <= (width - m) / reads && segments <= (width - m - reads * d) / (row + 1)) return nullptr;
    return context.Invalid(
        "an atom has %lld numbers; it must hold %lld and %lld times %lld, and %lld gains of each block, block %lld "
        "among them",
        static_cast<long long>(width), static_cast<long long>(m), static_cast<long long>(reads),
        static_cast<long long>(d), static_cast<long long>(segments), static_cast<long long>(row));
  }
};

}  // namespace

OrtCustomOp* MakeAtomMixUpdate(const OrtApi* api) { return MakeOp<AtomMixUpdate>(api); }

}  // namespace edgeadapt
