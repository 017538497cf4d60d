// The loops of QuantMatMul: weights as com.microsoft::MatMulNBits packs them, activations in int8, sums in int32.
//
// A weight row w is cut into nb blocks of `block` codes c, each block with a scale t and a zero point z:
//
//     w_k = t_b (c_k - z_b)          z_b = 8 at 4 bits, 128 at 8 bits, unless zero points are given
//
// An activation row x is cut alike and quantised when it arrives:
//
//     s_b = max(max_k |x_k| / 127, 2^-126)        q_k = round(x_k / s_b), ties to even, in -127..127
//
// so that y = sum_b s_b t_b (sum_k c_k q_k - z_b sum_k q_k), whose inner sums are exact in int32, and
//
//     |y - w^T x| <= sum_b s_b / 2 sum_k |w_k|    plus the rounding of a float32 sum of nb terms.
//
// A NaN or an infinity in x makes its row of y NaN and touches no other row. Packing: ONNX Runtime's operator
// documentation (docs/ContribOperators.md, com.microsoft.MatMulNBits).
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeadapt {

// A quantised weight [N, K], as it lies in the file.
struct QuantWeight {
  const uint8_t* data;         // [N, nb, block bits / 8]; 4 bits: value 2i is the low half of byte i
  const float* scales;         // [N, nb]
  const uint8_t* zero_points;  // [N, ceil(nb bits / 8)], 4 bits: block 2j in the low half; or null: the default
  const float* bias;           // [N] or null
  size_t K, N, nb, block;      // block: 32 or more at 4 bits, 16 or more at 8; a power of two
  int bits;                    // 4 or 8
};

constexpr size_t kPanel = 4;  // activation rows that share one pass over the weights

// Quantised activations of `rows` rows, 1 or kPanel. Pieces of P = 32 (4 bits) or 16 (8 bits) numbers of every row lie
// side by side, and at 4 bits a piece's even numbers come before its odd ones: the order in which codes unpack.
//     q [nb block / P][rows][P]        s, sums [nb][rows], and for one row three zeros more
struct QuantRows {
  int8_t* q;
  float* s;
  int32_t* sums;  // sum_k q_k of a block

  static constexpr size_t Piece(int bits) { return bits == 4 ? 32 : 16; }
};

struct QuantLoops {
  const char* name;
  bool flipped;  // `panel` takes 8-bit codes less 128, as signed bytes: the caller flips a strip once for all panels

  // Row r of the `rows` rows of `out` <- x, K numbers.
  void (*quantise)(const QuantWeight& w, const float* x, size_t rows, size_t r, const QuantRows& out);
  // y[n] <- row n of the weight times the one row x, for n in [begin, end).
  void (*row)(const QuantWeight& w, const QuantRows& x, size_t begin, size_t end, float* y);
  // y[r * N + n], for the first `count` of the kPanel rows x.
  void (*panel)(const QuantWeight& w, const QuantRows& x, size_t count, size_t begin, size_t end, float* y);
};

// The best variant that may run here (cpu.h); null if EDGEADAPT_OPS_ISA is unknown or the processor lacks it.
const QuantLoops* SelectQuantLoops();

extern const QuantLoops kQuantScalar;
#if defined(__x86_64__)
extern const QuantLoops kQuantAvx2;
extern const QuantLoops kQuantAvx512Vnni;
#elif defined(__aarch64__)
extern const QuantLoops kQuantNeon;
extern const QuantLoops kQuantDotProduct;
#endif

}  // namespace edgeadapt
