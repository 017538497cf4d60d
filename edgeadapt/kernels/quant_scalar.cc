// Plain C++: the same integers everywhere, and what runs where no better set is known.
#include "quant_dots.h"

namespace edgeadapt {
namespace {

struct Dots {
  static constexpr int32_t kOffset8 = 128;
  static constexpr bool kFlipped = false;

  // 32 codes of 4 bits against a piece (evens, then odds); `size` codes of 8 bits against as many numbers.
  static int32_t Codes4(const uint8_t* w, const int8_t* q) {
    int32_t sum = 0;
    for (size_t i = 0; i < 16; ++i) sum += (w[i] & 15) * q[i] + (w[i] >> 4) * q[16 + i];
    return sum;
  }
  static int32_t Codes8(const uint8_t* w, const int8_t* q, size_t size) {
    int32_t sum = 0;
    for (size_t i = 0; i < size; ++i) sum += (w[i] - kOffset8) * q[i];
    return sum;
  }

  template <size_t blocks, size_t rows>
  static void Row4(const uint8_t** w, const int8_t** q, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      out[i] = I4{};
      for (size_t b = 0; b < blocks; ++b) out[i][b] = Codes4(w[i] + b * 16, *q + b * 32);
      w[i] += blocks * 16;
    }
    *q += blocks * 32;
  }
  template <size_t blocks, size_t rows>
  static void Row8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      out[i] = I4{};
      for (size_t b = 0; b < blocks; ++b) out[i][b] = Codes8(w[i] + b * block, *q + b * block, block);
      w[i] += blocks * block;
    }
    *q += blocks * block;
  }
  template <size_t rows>
  static void Panel4(const uint8_t** w, const int8_t** q, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      for (size_t r = 0; r < kPanel; ++r) out[i][r] = Codes4(w[i], *q + r * 32);
      w[i] += 16;
    }
    *q += kPanel * 32;
  }
  template <size_t rows>
  static void Panel8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      out[i] = I4{};
      for (size_t k = 0; k < block; k += 16) {
        for (size_t r = 0; r < kPanel; ++r) out[i][r] += Codes8(w[i] + k, *q + k * kPanel + r * 16, 16);
      }
      w[i] += block;
    }
    *q += kPanel * block;
  }
  static float Sum(V4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }
};

}  // namespace
}  // namespace edgeadapt

#define EDGEADAPT_QUANT kQuantScalar
#define EDGEADAPT_ISA "scalar"
#include "quant_impl.h"
