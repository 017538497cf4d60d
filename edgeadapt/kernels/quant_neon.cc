// ARMv8.0 NEON (Cortex-A72, Raspberry Pi 4): there is no integer dot product, so products are summed in 16 bits for as
// long as they fit, and only then in 32.
//
//   4 bits   codes 0..15, |q| <= 127: a lane may take 17 products. A block of 32 puts 4 into each of 8 lanes (<=
//   7,620);
//            two pairwise additions across blocks or rows make 16 of them (<= 30,480), a widening one the rest.
//   8 bits   codes centred by flipping their top bit, -128..127: a lane takes two products (<= 32,512), then widens.
#include <arm_neon.h>

#include "quant_dots.h"

namespace edgeadapt {
namespace {

struct Dots {
  static constexpr int32_t kOffset8 = 128;
  static constexpr bool kFlipped = true;

  struct Codes4 {
    int8x16_t even, odd;
  };
  EDGEADAPT_INLINE Codes4 Unpack(uint8x16_t packed) {
    return {vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(packed, 4))};
  }
  // 32 products in 8 lanes.
  EDGEADAPT_INLINE int16x8_t Multiply4(Codes4 c, int8x16_t even, int8x16_t odd) {
    int16x8_t sum = vmull_s8(vget_low_s8(c.even), vget_low_s8(even));
    sum = vmlal_high_s8(sum, c.even, even);
    sum = vmlal_s8(sum, vget_low_s8(c.odd), vget_low_s8(odd));
    return vmlal_high_s8(sum, c.odd, odd);
  }
  EDGEADAPT_INLINE int16x8_t Multiply8(int8x16_t c, int8x16_t q) {
    return vmlal_high_s8(vmull_s8(vget_low_s8(c), vget_low_s8(q)), c, q);
  }
  EDGEADAPT_INLINE int8x16_t Centred(uint8x16_t codes) {
    return vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80)));
  }
  // Lane i of the result is the sum of the lanes of vector i.
  EDGEADAPT_INLINE I4 Fold(int16x8_t a, int16x8_t b, int16x8_t c, int16x8_t d) {
    return reinterpret_cast<I4>(vpaddlq_s16(vpaddq_s16(vpaddq_s16(a, b), vpaddq_s16(c, d))));
  }
  EDGEADAPT_INLINE I4 Fold(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
    return reinterpret_cast<I4>(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)));
  }

  // The next 64 bytes. One instruction that also moves the pointer: GCC makes four loads and an addition of
  // vld1q_u8_x4, a seventh of the instructions of the loops below.
  EDGEADAPT_INLINE uint8x16x4_t Next64(const uint8_t** p) {
    uint8x16x4_t bytes;
    asm("ld1 {%S0.16b - %V0.16b}, [%1], #64"
        : "=w"(bytes), "+r"(*p)
        : "m"(*reinterpret_cast<const uint8_t (*)[64]>(*p)));
    return bytes;
  }
  EDGEADAPT_INLINE int8x16x4_t Next64(const int8_t** p) {
    int8x16x4_t bytes;
    asm("ld1 {%S0.16b - %V0.16b}, [%1], #64"
        : "=w"(bytes), "+r"(*p)
        : "m"(*reinterpret_cast<const int8_t (*)[64]>(*p)));
    return bytes;
  }

  template <size_t blocks, size_t rows>
  EDGEADAPT_INLINE void Row4(const uint8_t** w, const int8_t** q, I4* out) {
    if constexpr (blocks == 4) {
      const int8x16x4_t first = Next64(q), second = Next64(q);
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) {
        const uint8x16x4_t codes = Next64(&w[i]);
        out[i] = Fold(Multiply4(Unpack(codes.val[0]), first.val[0], first.val[1]),
                      Multiply4(Unpack(codes.val[1]), first.val[2], first.val[3]),
                      Multiply4(Unpack(codes.val[2]), second.val[0], second.val[1]),
                      Multiply4(Unpack(codes.val[3]), second.val[2], second.val[3]));
      }
    } else {
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) {
        int16x8_t sums[4] = {};
        EDGEADAPT_UNROLL
        for (size_t b = 0; b < blocks; ++b) {
          sums[b] = Multiply4(Unpack(vld1q_u8(w[i])), vld1q_s8(*q + b * 32), vld1q_s8(*q + b * 32 + 16));
          w[i] += 16;
        }
        out[i] = blocks == 1 ? reinterpret_cast<I4>(vpaddlq_s16(sums[0])) : Fold(sums[0], sums[1], sums[2], sums[3]);
      }
      *q += blocks * 32;
    }
  }

  // The next block of each weight row, summed in four lanes.
  template <size_t rows>
  EDGEADAPT_INLINE void Block8(const uint8_t** w, const int8_t** q, size_t block, int32x4_t* sums) {
    const size_t long_pieces = block / 64;
#pragma GCC unroll 2  // a block of 128
    for (size_t piece = 0; piece < long_pieces; ++piece) {
      const int8x16x4_t numbers = Next64(q);
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) {
        const uint8x16x4_t codes = Next64(&w[i]);
        EDGEADAPT_UNROLL
        for (size_t k = 0; k < 4; ++k) {
          const int16x8_t products = Multiply8(Centred(codes.val[k]), numbers.val[k]);
          sums[i] = piece == 0 && k == 0 ? vpaddlq_s16(products) : vpadalq_s16(sums[i], products);
        }
      }
    }
    for (size_t k = long_pieces * 64; k < block; k += 16, *q += 16) {
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) {
        const int16x8_t products = Multiply8(Centred(vld1q_u8(w[i])), vld1q_s8(*q));
        sums[i] = k == 0 ? vpaddlq_s16(products) : vpadalq_s16(sums[i], products);
        w[i] += 16;
      }
    }
  }
  // Two blocks of each weight row: their sums in two lanes each.
  template <size_t rows>
  EDGEADAPT_INLINE void Pair8(const uint8_t** w, const int8_t** q, size_t block, int32x4_t* pairs) {
    int32x4_t first[rows] = {}, second[rows] = {};
    Block8<rows>(w, q, block, first);
    Block8<rows>(w, q, block, second);
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) pairs[i] = vpaddq_s32(first[i], second[i]);
  }
  // Pair by pair, so that the sums of four rows stay in registers.
  template <size_t blocks, size_t rows>
  EDGEADAPT_INLINE void Row8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    static_assert(blocks == 1 || blocks == 2 || blocks == 4);
    int32x4_t low[rows] = {}, high[rows] = {};
    if constexpr (blocks == 1) {
      Block8<rows>(w, q, block, low);
    } else {
      Pair8<rows>(w, q, block, low);
      if constexpr (blocks == 4) Pair8<rows>(w, q, block, high);
    }
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) {
      out[i] = reinterpret_cast<I4>(blocks == 1 ? low[i] : vpaddq_s32(low[i], high[i]));
    }
  }

  template <size_t rows>
  EDGEADAPT_INLINE void Panel4(const uint8_t** w, const int8_t** q, I4* out) {
    int16x8_t sums[rows][kPanel];
    Codes4 codes[rows];
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) {
      codes[i] = Unpack(vld1q_u8(w[i]));
      w[i] += 16;
    }
    EDGEADAPT_UNROLL
    for (size_t r = 0; r < kPanel; r += 2) {
      const int8x16x4_t numbers = Next64(q);
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) {
        sums[i][r] = Multiply4(codes[i], numbers.val[0], numbers.val[1]);
        sums[i][r + 1] = Multiply4(codes[i], numbers.val[2], numbers.val[3]);
      }
    }
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) out[i] = Fold(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
  }

  // One piece of every weight and activation row.
  template <size_t rows>
  EDGEADAPT_INLINE void Piece8(const int8x16_t* codes, const int8_t** q, bool first, int32x4_t (*sums)[kPanel]) {
    const int8x16x4_t numbers = Next64(q);
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) {
      EDGEADAPT_UNROLL
      for (size_t r = 0; r < kPanel; ++r) {
        const int16x8_t products = Multiply8(codes[i], numbers.val[r]);
        sums[i][r] = first ? vpaddlq_s16(products) : vpadalq_s16(sums[i][r], products);
      }
    }
  }
  template <size_t rows>
  EDGEADAPT_INLINE void Panel8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    int32x4_t sums[rows][kPanel] = {};
    const size_t long_pieces = block / 64;
#pragma GCC unroll 2  // a block of 128
    for (size_t piece = 0; piece < long_pieces; ++piece) {
      uint8x16x4_t codes[rows];
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) codes[i] = Next64(&w[i]);
      EDGEADAPT_UNROLL
      for (size_t k = 0; k < 4; ++k) {
        int8x16_t centred[rows];
        EDGEADAPT_UNROLL
        for (size_t i = 0; i < rows; ++i) centred[i] = vreinterpretq_s8_u8(codes[i].val[k]);
        Piece8<rows>(centred, q, piece == 0 && k == 0, sums);
      }
    }
    for (size_t k = long_pieces * 64; k < block; k += 16) {
      int8x16_t centred[rows];
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) {
        centred[i] = vreinterpretq_s8_u8(vld1q_u8(w[i]));
        w[i] += 16;
      }
      Piece8<rows>(centred, q, k == 0, sums);
    }
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) out[i] = Fold(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
  }

  EDGEADAPT_INLINE float Sum(V4 v) { return vaddvq_f32(reinterpret_cast<float32x4_t>(v)); }
};

}  // namespace
}  // namespace edgeadapt

#define EDGEADAPT_QUANT kQuantNeon
#define EDGEADAPT_ISA "neon"
#include "quant_impl.h"
