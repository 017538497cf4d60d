// ARMv8.2 with SDOT (Cortex-A76, Raspberry Pi 5): four products a lane straight into 32 bits.
#include <arm_neon.h>

#include "quant_dots.h"

namespace edgeadapt {
namespace {

struct Dots {
  static constexpr int32_t kOffset8 = 128;
  static constexpr bool kFlipped = false;

  EDGEADAPT_INLINE int32x4_t Add4(int32x4_t sum, uint8x16_t packed, const int8_t* q) {
    sum = vdotq_s32(sum, vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15))), vld1q_s8(q));
    return vdotq_s32(sum, vreinterpretq_s8_u8(vshrq_n_u8(packed, 4)), vld1q_s8(q + 16));
  }
  EDGEADAPT_INLINE int32x4_t Add8(int32x4_t sum, uint8x16_t codes, const int8_t* q) {
    return vdotq_s32(sum, vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80))), vld1q_s8(q));
  }
  // Lane i of the result is the sum of the lanes of vector i.
  EDGEADAPT_INLINE I4 Fold(const int32x4_t* v) {
    return reinterpret_cast<I4>(vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3])));
  }

  template <size_t blocks, size_t rows>
  EDGEADAPT_INLINE void Row4(const uint8_t** w, const int8_t** q, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      int32x4_t sums[4] = {};
      for (size_t b = 0; b < blocks; ++b) sums[b] = Add4(sums[b], vld1q_u8(w[i] + b * 16), *q + b * 32);
      out[i] = Fold(sums);
      w[i] += blocks * 16;
    }
    *q += blocks * 32;
  }
  template <size_t blocks, size_t rows>
  EDGEADAPT_INLINE void Row8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    int32x4_t sums[rows][4] = {};
    for (size_t b = 0; b < blocks; ++b) {
      for (size_t k = 0; k < block; k += 16, *q += 16) {
        for (size_t i = 0; i < rows; ++i) {
          sums[i][b] = Add8(sums[i][b], vld1q_u8(w[i]), *q);
          w[i] += 16;
        }
      }
    }
    for (size_t i = 0; i < rows; ++i) out[i] = Fold(sums[i]);
  }
  template <size_t rows>
  EDGEADAPT_INLINE void Panel4(const uint8_t** w, const int8_t** q, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      int32x4_t sums[kPanel] = {};
      for (size_t r = 0; r < kPanel; ++r) sums[r] = Add4(sums[r], vld1q_u8(w[i]), *q + r * 32);
      out[i] = Fold(sums);
      w[i] += 16;
    }
    *q += kPanel * 32;
  }
  template <size_t rows>
  EDGEADAPT_INLINE void Panel8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    int32x4_t sums[rows][kPanel] = {};
    for (size_t k = 0; k < block; k += 16, *q += kPanel * 16) {
      for (size_t i = 0; i < rows; ++i) {
        for (size_t r = 0; r < kPanel; ++r) sums[i][r] = Add8(sums[i][r], vld1q_u8(w[i]), *q + r * 16);
        w[i] += 16;
      }
    }
    for (size_t i = 0; i < rows; ++i) out[i] = Fold(sums[i]);
  }

  EDGEADAPT_INLINE float Sum(V4 v) { return vaddvq_f32(reinterpret_cast<float32x4_t>(v)); }
};

}  // namespace
}  // namespace edgeadapt

#define EDGEADAPT_QUANT kQuantDotProduct
#define EDGEADAPT_ISA "dotprod"
#include "quant_impl.h"
