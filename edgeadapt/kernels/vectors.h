// The SIMD layer: the few vector loops that the ops are made of, compiled once per instruction set and chosen at run
// time. The library's baseline is what its platform guarantees (SSE2 on x86-64, NEON on ARMv8.0), so that no
// instruction runs that the processor lacks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeadapt {

// IEEE binary16, kept apart from other 16-bit integers.
struct Half {
  uint16_t bits;
};

// float <- binary16, exact for every value (denormals, infinities and NaN included). Static: each instruction set
// compiles its own copy, and the linker must not share one between them.
static inline float ToFloat(Half h) {
  const uint32_t magnitude = static_cast<uint32_t>(h.bits & 0x7FFFu) << 13;
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  uint32_t bits = magnitude + (112u << 23);          // rebias the exponent
  if (magnitude >= 0x0F800000u) bits += 112u << 23;  // infinity or NaN: the exponent is all ones again
  float value;
  if (magnitude < 0x00800000u) {  // zero or denormal: n * 2^-24
    value = static_cast<float>(h.bits & 0x3FFu) * 0x1p-24f;
    __builtin_memcpy(&bits, &value, sizeof bits);
  }
  bits |= sign;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// All arrays may be unaligned; n may be zero; outputs may be the very same array as an input of the same role, but must
// not overlap one partly.
struct Vectors {
  const char* name;

  float (*dot)(const float* a, const float* b, size_t n);                               // sum_i a_i b_i
  float (*dot_int8)(const int8_t* w, const float* x, size_t n);                         // sum_i w_i x_i
  void (*scale)(float c, const float* x, float* z, size_t n);                           // z = c x
  void (*scaled_product)(float c, const float* x, const float* g, float* z, size_t n);  // z_i = c x_i g_i
  void (*axpy)(const float* y, float c, const float* x, float* z, size_t n);            // z = y + c x
  // z = y + h B: y, z (n), h (r), B (r, n) row-major
  void (*add_product)(const float* y, const float* h, const float* B, float* z, size_t r, size_t n);
  void (*add_product_half)(const float* y, const float* h, const Half* B, float* z, size_t r, size_t n);
  void (*add_product_int8)(const float* y, const float* h, const int8_t* B, float* z, size_t r, size_t n);
  // h = x A: x (n), A (n, r) row-major, h (r)
  void (*vector_matrix)(const float* x, const float* A, float* h, size_t n, size_t r);
  void (*vector_matrix_half)(const float* x, const Half* A, float* h, size_t n, size_t r);
  void (*vector_matrix_int8)(const float* x, const int8_t* A, float* h, size_t n, size_t r);
  // rows taken singly: sum_i w_i x_i, and z += c w
  float (*dot_half)(const Half* w, const float* x, size_t n);
  void (*add_scaled_half)(float c, const Half* w, float* z, size_t n);
  // integers: q = round(x / c), half to even, for |x / c| < 128; sum_i a_i b_i; sums += c w for |c| < 128
  void (*quantise)(const float* x, float c, int8_t* q, size_t n);
  int32_t (*dot_integers)(const int8_t* a, const int8_t* b, size_t n);
  void (*add_scaled_integers)(int8_t c, const int8_t* w, int32_t* sums, size_t n);
  // z = y + c sums
  void (*add_scaled_sums)(const float* y, float c, const int32_t* sums, float* z, size_t n);
  // the bits of the largest |x_i|: at least those of infinity where any x_i is not finite
  uint32_t (*largest_bits)(const float* x, size_t n);
};

// The best variant that may run here (cpu.h); null if EDGEADAPT_OPS_ISA is unknown or the processor lacks it.
const Vectors* SelectVectors();

extern const Vectors kVectorsScalar;
extern const Vectors kVectorsBaseline;
#if defined(__x86_64__)
extern const Vectors kVectorsAvx2;
extern const Vectors kVectorsAvx512;
#endif

}  // namespace edgeadapt
