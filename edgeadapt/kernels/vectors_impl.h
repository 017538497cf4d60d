// The loops of vectors.h, written once with GCC's vector extensions. A file per instruction set sets
//   EDGEADAPT_VECTORS  the table to define      EDGEADAPT_ISA  its name      EDGEADAPT_WIDTH  floats in one register
// and includes this one; CMakeLists.txt gives that file its compiler flags. No include here may bring inline functions
// of external linkage: the linker could pick the copy that was compiled for a newer processor.
#include <stddef.h>
#include <stdint.h>

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__) && EDGEADAPT_WIDTH == 4
#define EDGEADAPT_NEON 1
#include <arm_neon.h>
#endif

#include "inlining.h"
#include "vectors.h"

namespace edgeadapt {
namespace {

constexpr size_t W = EDGEADAPT_WIDTH;
typedef float V __attribute__((vector_size(W * sizeof(float))));
typedef float VUnaligned __attribute__((vector_size(W * sizeof(float)), aligned(alignof(float)), may_alias));
typedef int16_t S __attribute__((vector_size(W * sizeof(int16_t))));
typedef int32_t I __attribute__((vector_size(W * sizeof(int32_t))));
typedef int8_t B __attribute__((vector_size(W)));
typedef int8_t BUnaligned __attribute__((vector_size(W), aligned(1), may_alias));

// Low-rank factors are 8, 16, 32 ... wide: eight columns at a time on every instruction set, in one vector or in two
// (GCC keeps a vector wider than the registers in memory).
constexpr size_t kColumns = 8;
constexpr size_t P = W < kColumns ? W : kColumns;  // of them in one vector
constexpr size_t kParts = kColumns / P;
typedef float VP __attribute__((vector_size(P * sizeof(float))));
typedef float VPUnaligned __attribute__((vector_size(P * sizeof(float)), aligned(alignof(float)), may_alias));
typedef int32_t IP __attribute__((vector_size(P * sizeof(int32_t))));
typedef int16_t SP __attribute__((vector_size(P * sizeof(int16_t))));
typedef int8_t BP __attribute__((vector_size(P)));
typedef int8_t BPUnaligned __attribute__((vector_size(P), aligned(1), may_alias));

EDGEADAPT_INLINE V Load(const float* p) { return *reinterpret_cast<const VUnaligned*>(p); }
EDGEADAPT_INLINE void Store(float* p, V v) { *reinterpret_cast<VUnaligned*>(p) = v; }
EDGEADAPT_INLINE V Load(const int8_t* p) {
  const B bytes = *reinterpret_cast<const BUnaligned*>(p);
  // A doubling of the width at a time: anything longer GCC does through scalars.
  return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(bytes, S), I), V);
}

EDGEADAPT_INLINE VP LoadPart(const float* p) { return *reinterpret_cast<const VPUnaligned*>(p); }
EDGEADAPT_INLINE VP LoadPart(const Half* p) {
#if defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(EDGEADAPT_NEON)
  const float32x4_t part = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
  VP v;
  __builtin_memcpy(&v, &part, sizeof v);
  return v;
#else
  VP v;
  for (size_t i = 0; i < P; ++i) v[i] = ToFloat(p[i]);
  return v;
#endif
}
EDGEADAPT_INLINE VP LoadPart(const int8_t* p) {
  const BP bytes = *reinterpret_cast<const BPUnaligned*>(p);
  return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(bytes, SP), IP), VP);
}
EDGEADAPT_INLINE void StorePart(float* p, VP v) { *reinterpret_cast<VPUnaligned*>(p) = v; }

// kColumns numbers of one row.
template <class T>
EDGEADAPT_INLINE void LoadColumns(const T* p, VP (&v)[kParts]) {
  EDGEADAPT_UNROLL
  for (size_t s = 0; s < kParts; ++s) v[s] = LoadPart(p + s * P);
}
#if defined(EDGEADAPT_NEON)
// A table look-up moves four codes to the top bytes of four integers, and the conversion takes those for eight-bit
// integers with 24 fractional bits: two instructions for four numbers, where widening step by step takes two and a half
// and keeps the one unit busy that can shift.
EDGEADAPT_INLINE void LoadColumns(const int8_t* p, VP (&v)[kParts]) {
  const int8x16_t codes = vcombine_s8(vld1_s8(p), vdup_n_s8(0));
  constexpr uint8_t kNone = 255;
  const uint8x16_t first = {kNone, kNone, kNone, 0, kNone, kNone, kNone, 1,
                            kNone, kNone, kNone, 2, kNone, kNone, kNone, 3};
  const uint8x16_t second = {kNone, kNone, kNone, 4, kNone, kNone, kNone, 5,
                             kNone, kNone, kNone, 6, kNone, kNone, kNone, 7};
  const float32x4_t low = vcvtq_n_f32_s32(vreinterpretq_s32_s8(vqtbl1q_s8(codes, first)), 24);
  const float32x4_t high = vcvtq_n_f32_s32(vreinterpretq_s32_s8(vqtbl1q_s8(codes, second)), 24);
  __builtin_memcpy(&v[0], &low, sizeof low);
  __builtin_memcpy(&v[1], &high, sizeof high);
}
#endif

EDGEADAPT_INLINE float One(const float* p) { return *p; }
EDGEADAPT_INLINE float One(const int8_t* p) { return static_cast<float>(*p); }
EDGEADAPT_INLINE float One(const Half* p) { return ToFloat(*p); }

EDGEADAPT_INLINE float Sum(V v) {
  float sum = 0.0f;
  for (size_t i = 0; i < W; ++i) sum += v[i];
  return sum;
}

// sum_i a(i) x_i, where a.at(i) is one number and a.vector(i) W of them. Four sums hide the latency of an addition.
template <class A>
EDGEADAPT_INLINE float DotOf(const A& a, const float* x, size_t n) {
  V sums[4] = {};
  size_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    for (size_t k = 0; k < 4; ++k) sums[k] += a.vector(i + k * W) * Load(x + i + k * W);
  }
  for (; i + W <= n; i += W) sums[0] += a.vector(i) * Load(x + i);
  float sum = Sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < n; ++i) sum += a.at(i) * x[i];
  return sum;
}

template <class T>
struct Plain {
  const T* a;
  __attribute__((always_inline)) V vector(size_t i) const { return Load(a + i); }
  __attribute__((always_inline)) float at(size_t i) const { return One(a + i); }
};

float Dot(const float* a, const float* b, size_t n) { return DotOf(Plain<float>{a}, b, n); }
float DotInt8(const int8_t* w, const float* x, size_t n) { return DotOf(Plain<int8_t>{w}, x, n); }

void Scale(float c, const float* x, float* z, size_t n) {
  size_t i = 0;
  for (; i + W <= n; i += W) Store(z + i, c * Load(x + i));
  for (; i < n; ++i) z[i] = c * x[i];
}

void ScaledProduct(float c, const float* x, const float* g, float* z, size_t n) {
  size_t i = 0;
  for (; i + W <= n; i += W) Store(z + i, c * Load(x + i) * Load(g + i));
  for (; i < n; ++i) z[i] = c * x[i] * g[i];
}

void Axpy(const float* y, float c, const float* x, float* z, size_t n) {
  size_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
    V sums[4];
    EDGEADAPT_UNROLL
    for (size_t k = 0; k < 4; ++k) sums[k] = Load(y + i + k * W) + c * Load(x + i + k * W);
    EDGEADAPT_UNROLL
    for (size_t k = 0; k < 4; ++k) Store(z + i + k * W, sums[k]);
  }
  for (; i + W <= n; i += W) Store(z + i, Load(y + i) + c * Load(x + i));
  for (; i < n; ++i) z[i] = y[i] + c * x[i];
}

// sums += c p
template <class T>
EDGEADAPT_INLINE void AddColumns(float c, const T* p, VP (&sums)[kParts]) {
  VP v[kParts];
  LoadColumns(p, v);
  EDGEADAPT_UNROLL
  for (size_t s = 0; s < kParts; ++s) sums[s] += c * v[s];
}
EDGEADAPT_INLINE void StoreColumns(float* p, const VP (&v)[kParts]) {
  EDGEADAPT_UNROLL
  for (size_t s = 0; s < kParts; ++s) StorePart(p + s * P, v[s]);
}

// z = y + h B, B's rows given, in strips of columns whose sums stay in registers over all r rows.
template <class T>
EDGEADAPT_INLINE void AddProductOf(const float* y, const float* h, const T* rows, float* z, size_t r, size_t n) {
  constexpr size_t kStrip = 4;
  size_t j = 0;
  for (; j + kStrip * kColumns <= n; j += kStrip * kColumns) {
    VP sums[kStrip][kParts];
    EDGEADAPT_UNROLL
    for (size_t c = 0; c < kStrip; ++c) LoadColumns(y + j + c * kColumns, sums[c]);
    for (size_t k = 0; k < r; ++k) {
      EDGEADAPT_UNROLL
      for (size_t c = 0; c < kStrip; ++c) AddColumns(h[k], rows + k * n + j + c * kColumns, sums[c]);
    }
    EDGEADAPT_UNROLL
    for (size_t c = 0; c < kStrip; ++c) StoreColumns(z + j + c * kColumns, sums[c]);
  }
  for (; j < n; ++j) {
    float sum = y[j];
    for (size_t k = 0; k < r; ++k) sum += h[k] * One(rows + k * n + j);
    z[j] = sum;
  }
}

void AddProduct(const float* y, const float* h, const float* rows, float* z, size_t r, size_t n) {
  AddProductOf(y, h, rows, z, r, n);
}
void AddProductHalf(const float* y, const float* h, const Half* rows, float* z, size_t r, size_t n) {
  AddProductOf(y, h, rows, z, r, n);
}
void AddProductInt8(const float* y, const float* h, const int8_t* rows, float* z, size_t r, size_t n) {
  AddProductOf(y, h, rows, z, r, n);
}

template <class T>
EDGEADAPT_INLINE void VectorMatrixOf(const float* x, const T* A, float* h, size_t n, size_t r) {
  size_t j = 0;
  for (; j + kColumns <= r; j += kColumns) {
    VP sums[4][kParts] = {};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      EDGEADAPT_UNROLL
      for (size_t k = 0; k < 4; ++k) AddColumns(x[i + k], A + (i + k) * r + j, sums[k]);
    }
    for (; i < n; ++i) AddColumns(x[i], A + i * r + j, sums[0]);
    EDGEADAPT_UNROLL
    for (size_t s = 0; s < kParts; ++s) sums[0][s] = (sums[0][s] + sums[1][s]) + (sums[2][s] + sums[3][s]);
    StoreColumns(h + j, sums[0]);
  }
  for (; j < r; ++j) {
    float sum = 0.0f;
    for (size_t i = 0; i < n; ++i) sum += x[i] * One(A + i * r + j);
    h[j] = sum;
  }
}

void VectorMatrix(const float* x, const float* A, float* h, size_t n, size_t r) { VectorMatrixOf(x, A, h, n, r); }
void VectorMatrixHalf(const float* x, const Half* A, float* h, size_t n, size_t r) { VectorMatrixOf(x, A, h, n, r); }
void VectorMatrixInt8(const float* x, const int8_t* A, float* h, size_t n, size_t r) { VectorMatrixOf(x, A, h, n, r); }

float DotHalf(const Half* w, const float* x, size_t n) {
  VP sums[2][kParts] = {};
  size_t i = 0;
  for (; i + 2 * kColumns <= n; i += 2 * kColumns) {
    EDGEADAPT_UNROLL
    for (size_t k = 0; k < 2; ++k) {
      VP a[kParts], b[kParts];
      LoadColumns(w + i + k * kColumns, a);
      LoadColumns(x + i + k * kColumns, b);
      EDGEADAPT_UNROLL
      for (size_t s = 0; s < kParts; ++s) sums[k][s] += a[s] * b[s];
    }
  }
  float sum = 0.0f;
  for (size_t s = 0; s < kParts; ++s) {
    const VP part = sums[0][s] + sums[1][s];
    for (size_t k = 0; k < P; ++k) sum += part[k];
  }
  for (; i < n; ++i) sum += One(w + i) * x[i];
  return sum;
}

void AddScaledHalf(float c, const Half* w, float* z, size_t n) {
  size_t j = 0;
  for (; j + kColumns <= n; j += kColumns) {
    VP sums[kParts];
    LoadColumns(z + j, sums);
    AddColumns(c, w + j, sums);
    StoreColumns(z + j, sums);
  }
  for (; j < n; ++j) z[j] += c * One(w + j);
}

// Integers go through the compiler's own vectorising: widening multiplications have an instruction on every processor.
// A float of 1.5 * 2^23 has no fraction, and its last bits count: adding it rounds to even. What is no number becomes
// any.
void Quantise(const float* x, float c, int8_t* q, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float shifted = x[i] / c + 12582912.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    q[i] = static_cast<int8_t>(static_cast<uint8_t>(bits));
  }
}

int32_t DotIntegers(const int8_t* a, const int8_t* b, size_t n) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; ++i) sum += static_cast<int16_t>(a[i]) * static_cast<int16_t>(b[i]);
  return sum;
}

void AddScaledIntegers(int8_t c, const int8_t* w, int32_t* sums, size_t n) {
  for (size_t i = 0; i < n; ++i) sums[i] += static_cast<int16_t>(c) * static_cast<int16_t>(w[i]);
}

void AddScaledSums(const float* y, float c, const int32_t* sums, float* z, size_t n) {
  for (size_t i = 0; i < n; ++i) z[i] = y[i] + c * static_cast<float>(sums[i]);
}

uint32_t LargestBits(const float* x, size_t n) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7FFFFFFFu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

}  // namespace

const Vectors EDGEADAPT_VECTORS = {EDGEADAPT_ISA,     Dot,           DotInt8,          Scale,
                                   ScaledProduct,     Axpy,          AddProduct,       AddProductHalf,
                                   AddProductInt8,    VectorMatrix,  VectorMatrixHalf, VectorMatrixInt8,
                                   DotHalf,           AddScaledHalf, Quantise,         DotIntegers,
                                   AddScaledIntegers, AddScaledSums, LargestBits};

}  // namespace edgeadapt
