// What HimalayaDirection and HimalayaTerms share: which atoms are open for a sequence, and how they are stored.
//
//   z      = [LN(pool); tasks[task] / 32; 1]              LN without affine, eps 1e-5
//   h      = SiLU(W1 z)                                   W1 = w1 * w1_scales by row, its last column the bias
//   [a; c] = W2 [h; 1] + rows[task] * row_scales[task]    40 gate logits, 40 coefficients
//   gate_j = 1 iff a_j > 0, atom_gains_j > 0 and a_j is among the 3 largest (ties: the smaller index)
//
//   pool   float32 [B, d], d a multiple of 8              task         int64 [B], 0 <= task < n_rows <= 32
//   atoms  uint8 [40, 3 d / 8], 8 codes in 3 bytes        atom_scales  float16 [40, ceil(d / 64)]
//   w1     int8 [w, d + 17]    w1_scales  float16 [w]     w2  int8 [80, w + 1]     w2_scales   float16 [80]
//   tasks  int8 [32, 16]       atom_gains float16 [40]    rows int8 [n_rows, 80]   row_scales  float16 [n_rows]
#pragma once

#include <cmath>

#include "ops.h"

namespace edgeadapt {
namespace himalaya {

constexpr size_t kAtoms = 40;
constexpr size_t kOpen = 3;
constexpr size_t kTasks = 32;
constexpr size_t kTaskWidth = 16;
constexpr size_t kGroup = 64;  // atom values that share one scale
constexpr float kLevels[8] = {-2.1520f, -1.3439f, -0.7560f, -0.2451f, 0.2451f, 0.7560f, 1.3439f, 2.1520f};

enum In : size_t {
  kPool,
  kTask,
  kAtomCodes,
  kAtomScales,
  kAtomGains,
  kW1,
  kW1Scales,
  kW2,
  kW2Scales,
  kTaskTable,
  kRows,
  kRowScales,
  kInputCount
};

// LN(pool) in double, into z[0..d): the mean and the variance of a large pool would lose digits in float.
inline void Normalise(const float* pool, size_t d, float* z) {
  double mean = 0.0, variance = 0.0;
  for (size_t i = 0; i < d; ++i) mean += static_cast<double>(pool[i]);
  mean /= static_cast<double>(d);
  for (size_t i = 0; i < d; ++i) {
    const double centred = static_cast<double>(pool[i]) - mean;
    variance += centred * centred;
  }
  const double scale = 1.0 / std::sqrt(variance / static_cast<double>(d) + 1e-5);
  for (size_t i = 0; i < d; ++i) z[i] = static_cast<float>((static_cast<double>(pool[i]) - mean) * scale);
}

// out[i] = scales[i] * sum_j codes[i, j] x[j]
inline void Rows(const Vectors& v, const int8_t* codes, const Half* scales, const float* x, size_t rows, size_t columns,
                 float* out) {
  for (size_t i = 0; i < rows; ++i) out[i] = ToFloat(scales[i]) * v.dot_int8(codes + i * columns, x, columns);
}

// The indices of the (at most three) largest positive logits, best first. Returns how many there are.
inline size_t LargestPositive(const float* a, size_t (&best)[kOpen]) {
  size_t count = 0;
  for (size_t j = 0; j < kAtoms; ++j) {
    if (!(a[j] > 0.0f)) continue;  // NaN is not positive
    size_t place = count;
    while (place > 0 && a[j] > a[best[place - 1]]) --place;
    if (place == kOpen) continue;
    if (count < kOpen) ++count;
    for (size_t k = count - 1; k > place; --k) best[k] = best[k - 1];
    best[place] = j;
  }
  return count;
}

// One open atom as stored, with its coefficient.
struct OpenAtom {
  const uint8_t* codes;
  const Half* scales;
  float gain, coefficient;
  size_t index;

  // The octet of codes that begins at `bytes`: code i in bits 3i..3i+2.
  static uint32_t Word(const uint8_t* bytes) {
    return static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
           static_cast<uint32_t>(bytes[2]) << 16;
  }

  // Its values start..start+7, as stored.
  void Octet(size_t start, float (&values)[8]) const {
    const float scale = ToFloat(scales[start / kGroup]);
    const uint32_t word = Word(codes + start / 8 * 3);
    for (size_t i = 0; i < 8; ++i) values[i] = kLevels[word >> (3 * i) & 7] * scale * gain;
  }
};

// An op of these inputs: Get reads and checks them, Open says which atoms a row of the batch opens.
struct Kernel : VectorKernel {
  static constexpr Input kInputs[kInputCount] = {{"pool", kFloat},       {"task", kInt64},      {"atoms", kUint8},
                                                 {"atom_scales", kHalf}, {"atom_gains", kHalf}, {"w1", kInt8},
                                                 {"w1_scales", kHalf},   {"w2", kInt8},         {"w2_scales", kHalf},
                                                 {"tasks", kInt8},       {"rows", kInt8},       {"row_scales", kHalf}};
  static constexpr int kInPlace = -1;

  static size_t ScratchSize(const Tensor (&in)[kInputCount]) {
    return in[kPool].dim(1) + kTaskWidth + 1 + in[kW1].dim(0) + 1;
  }

  static OrtStatus* Get(const Context& context, Tensor (&in)[kInputCount]) {
    for (size_t i = 0; i < kInputCount; ++i) {
      if (OrtStatus* status = context.Get(i, kInputs[i], &in[i])) return status;
    }
    return Check(context, in);
  }

  static OrtStatus* Check(const Context& context, const Tensor (&in)[kInputCount]) {
    const int64_t any[] = {-1, -1};
    if (OrtStatus* status = context.Expect(in[kPool], "pool", 2, any)) return status;
    if (OrtStatus* status = context.Expect(in[kW1], "w1", 2, any)) return status;
    if (OrtStatus* status = context.Expect(in[kRows], "rows", 2, any)) return status;
    const int64_t batch = in[kPool].shape[0], d = in[kPool].shape[1], w = in[kW1].shape[0], n = in[kRows].shape[0];
    if (d < 8 || d % 8 != 0) {
      return context.Invalid("input 'pool' has width %lld; it must be a positive multiple of 8",
                             static_cast<long long>(d));
    }
    constexpr auto atoms = static_cast<int64_t>(kAtoms);
    constexpr auto group = static_cast<int64_t>(kGroup);
    const struct {
      In input;
      size_t rank;
      int64_t shape[2];
    } expected[] = {{kTask, 1, {batch, 0}},
                    {kAtomCodes, 2, {atoms, d / 8 * 3}},
                    {kAtomScales, 2, {atoms, (d + group - 1) / group}},
                    {kAtomGains, 1, {atoms, 0}},
                    {kW1, 2, {w, d + static_cast<int64_t>(kTaskWidth) + 1}},
                    {kW1Scales, 1, {w, 0}},
                    {kW2, 2, {2 * atoms, w + 1}},
                    {kW2Scales, 1, {2 * atoms, 0}},
                    {kTaskTable, 2, {static_cast<int64_t>(kTasks), static_cast<int64_t>(kTaskWidth)}},
                    {kRows, 2, {n, 2 * atoms}},
                    {kRowScales, 1, {n, 0}}};
    for (const auto& e : expected) {
      if (OrtStatus* status = context.Expect(in[e.input], kInputs[e.input].name, e.rank, e.shape)) return status;
    }
    const int64_t known = n < static_cast<int64_t>(kTasks) ? n : static_cast<int64_t>(kTasks);
    for (size_t i = 0; i < in[kTask].dim(0); ++i) {
      const int64_t task = in[kTask].as<int64_t>()[i];
      if (task < 0 || task >= known) {
        return context.Invalid("task[%zu] is %lld; this adapter knows %lld tasks", i, static_cast<long long>(task),
                               static_cast<long long>(known));
      }
    }
    return nullptr;
  }

  // The open atoms of one row of the batch, by falling logit; how many. scratch: z (d + 17), then [h; 1] (w + 1).
  size_t Open(const Tensor (&in)[kInputCount], size_t row, float* scratch, OpenAtom (&open)[kOpen]) const {
    const size_t d = in[kPool].dim(1), w = in[kW1].dim(0);
    const auto task = static_cast<size_t>(in[kTask].as<int64_t>()[row]);
    const size_t z_size = d + kTaskWidth + 1;
    float* z = scratch;
    float* h = scratch + z_size;
    Normalise(in[kPool].as<float>() + row * d, d, z);
    const int8_t* embedding = in[kTaskTable].as<int8_t>() + task * kTaskWidth;
    for (size_t i = 0; i < kTaskWidth; ++i) z[d + i] = static_cast<float>(embedding[i]) / 32.0f;
    z[z_size - 1] = 1.0f;
    Rows(*vectors, in[kW1].as<int8_t>(), in[kW1Scales].as<Half>(), z, w, z_size, h);
    for (size_t i = 0; i < w; ++i) h[i] = h[i] / (1.0f + std::exp(-h[i]));
    h[w] = 1.0f;

    float both[2 * kAtoms];  // a, then c
    Rows(*vectors, in[kW2].as<int8_t>(), in[kW2Scales].as<Half>(), h, 2 * kAtoms, w + 1, both);
    const int8_t* own = in[kRows].as<int8_t>() + task * 2 * kAtoms;
    const float own_scale = ToFloat(in[kRowScales].as<Half>()[task]);
    for (size_t i = 0; i < 2 * kAtoms; ++i) both[i] += static_cast<float>(own[i]) * own_scale;

    size_t best[kOpen];
    const size_t candidates = LargestPositive(both, best);
    size_t count = 0;
    for (size_t k = 0; k < candidates; ++k) {
      const size_t j = best[k];
      const float gain = ToFloat(in[kAtomGains].as<Half>()[j]);
      if (!(gain > 0.0f)) continue;  // an inactive atom leaves its place empty
      open[count++] = {in[kAtomCodes].as<uint8_t>() + j * (d / 8 * 3),
                       in[kAtomScales].as<Half>() + j * ((d + kGroup - 1) / kGroup), gain, both[kAtoms + j], j};
    }
    return count;
  }
};

}  // namespace himalaya
}  // namespace edgeadapt
