// The loops of quant.h over the `Dots` of one instruction set (quant_dots.h). The including file also sets
//     EDGEADAPT_QUANT  the table to define      EDGEADAPT_ISA  its name
#include <float.h>

namespace edgeadapt {
namespace {

// Weight rows that share what is loaded of the activations.
constexpr size_t kRowsAtOnce = 4;       // for one activation row
constexpr size_t kPanelRowsAtOnce = 2;  // for a panel, whose sums take kPanel times the registers

template <class T, class From>
EDGEADAPT_INLINE T LoadAs(const From* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}
template <class T, class To>
EDGEADAPT_INLINE void StoreAs(To* p, T value) {
  __builtin_memcpy(p, &value, sizeof value);
}

EDGEADAPT_INLINE I4 Greater(I4 a, I4 b) { return a > b ? a : b; }

// The low bytes of four vectors of integers, in order.
EDGEADAPT_INLINE B16 LowBytes(I4 a, I4 b, I4 c, I4 d) {
  typedef uint16_t H8 __attribute__((vector_size(16)));
  const H8 ab = __builtin_shufflevector(reinterpret_cast<H8>(a), reinterpret_cast<H8>(b), 0, 2, 4, 6, 8, 10, 12, 14);
  const H8 cd = __builtin_shufflevector(reinterpret_cast<H8>(c), reinterpret_cast<H8>(d), 0, 2, 4, 6, 8, 10, 12, 14);
  return __builtin_shufflevector(reinterpret_cast<B16>(ab), reinterpret_cast<B16>(cd), 0, 2, 4, 6, 8, 10, 12, 14, 16,
                                 18, 20, 22, 24, 26, 28, 30);
}

// A block of an activation row: n numbers are there, the rest counts as zero.
struct Source {
  const float* x;
  size_t n;

  __attribute__((always_inline)) V4 at(size_t i) const {
    if (i + 4 <= n) return LoadAs<V4>(x + i);
    V4 v = {};
    for (size_t k = 0; i + k < n; ++k) v[k] = x[i + k];
    return v;
  }
};

// 16 numbers, scaled and rounded, as bytes; their sum is added to `total`. Adding 1.5 * 2^23 to a number below 2^22
// rounds it to an integer, ties to even, which then stands in the low bits.
EDGEADAPT_INLINE B16 Round16(const Source& source, size_t i, float inverse, I4* total) {
  constexpr float kShift = 12582912.0f;
  constexpr int32_t kShiftBits = 0x4B400000;
  I4 bits[4];
  for (size_t k = 0; k < 4; ++k) {
    bits[k] = reinterpret_cast<I4>(source.at(i + 4 * k) * inverse + kShift);
    *total += bits[k] - kShiftBits;
  }
  return LowBytes(bits[0], bits[1], bits[2], bits[3]);
}

template <int bits>
EDGEADAPT_INLINE void QuantiseAs(const QuantWeight& w, const float* x, size_t rows, size_t r, const QuantRows& out) {
  constexpr size_t P = QuantRows::Piece(bits);
  int8_t* q = out.q + r * P;
  for (size_t b = 0; b < w.nb; ++b) {
    const size_t start = b * w.block, left = w.K - start;
    const Source source{x + start, left < w.block ? left : w.block};
    I4 most = {};  // magnitudes compare as their bits do, and a NaN is above infinity
    for (size_t i = 0; i < w.block; i += 16) {
      EDGEADAPT_UNROLL
      for (size_t k = 0; k < 16; k += 4) most = Greater(most, reinterpret_cast<I4>(source.at(i + k)) & 0x7FFFFFFF);
    }
    most = Greater(most, __builtin_shufflevector(most, most, 2, 3, 0, 1));
    most = Greater(most, __builtin_shufflevector(most, most, 1, 0, 3, 2));
    const bool finite = most[0] < 0x7F800000;
    float s = finite ? reinterpret_cast<V4>(most)[0] * (1.0f / 127.0f) : __builtin_nanf("");
    if (s < FLT_MIN) s = FLT_MIN;
    const float inverse = 1.0f / s;
    I4 total = {};
    for (size_t i = 0; i < w.block; i += P, q += rows * P) {
      if (!finite) {
        __builtin_memset(q, 0, P);
        continue;
      }
      const B16 first = Round16(source, i, inverse, &total);
      if constexpr (bits == 8) {
        StoreAs(q, first);
      } else {
        const B16 second = Round16(source, i + 16, inverse, &total);
        const B16 even =
            __builtin_shufflevector(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const B16 odd =
            __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        StoreAs(q, even);
        StoreAs(q + 16, odd);
      }
    }
    out.s[b * rows + r] = s;
    out.sums[b * rows + r] = total[0] + total[1] + total[2] + total[3];
  }
}

void Quantise(const QuantWeight& w, const float* x, size_t rows, size_t r, const QuantRows& out) {
  w.bits == 4 ? QuantiseAs<4>(w, x, rows, r, out) : QuantiseAs<8>(w, x, rows, r, out);
}

// What is known of a weight when the loops are compiled; a block of 0 is known when they run.
template <int bits_, bool points_, size_t block_>
struct Form {
  static constexpr int bits = bits_;
  static constexpr bool points = points_;

  EDGEADAPT_INLINE size_t Block(const QuantWeight& w) { return block_ != 0 ? block_ : w.block; }
};

// The zero points of one weight row, less what a dot product has taken off the codes already.
template <int bits, bool given>
struct Points {
  static constexpr int32_t kOffset = bits == 4 ? 0 : Dots::kOffset8, kDefault = (bits == 4 ? 8 : 128) - kOffset;

  const uint8_t* row;

  EDGEADAPT_INLINE Points Of(const QuantWeight& w, size_t n) {
    return {given ? w.zero_points + n * ((w.nb * bits + 7) / 8) : nullptr};
  }
  __attribute__((always_inline)) int32_t at(size_t b) const {
    if constexpr (!given) return kDefault;
    return (bits == 4 ? row[b / 2] >> (b % 2 * 4) & 15 : row[b]) - kOffset;
  }
  // dot - z sums for blocks b, b + 1, ... in the lanes.
  template <size_t blocks>
  __attribute__((always_inline)) I4 Centre(I4 dot, I4 sums, size_t b) const {
    if constexpr (!given) return kDefault == 0 ? dot : dot - kDefault * sums;
    I4 z = {};
    for (size_t k = 0; k < blocks; ++k) z[k] = at(b + k);
    return dot - z * sums;
  }
  // dot - z sums for block b and one activation row in each lane.
  __attribute__((always_inline)) I4 CentreAll(I4 dot, I4 sums, size_t b) const {
    return !given && kDefault == 0 ? dot : dot - at(b) * sums;
  }
};

// The numbers of `blocks` blocks, one in each lane and zeros for the rest; of a single block, its number in every lane.
template <size_t blocks>
EDGEADAPT_INLINE V4 LoadNumbers(const float* p) {
  if constexpr (blocks == 4) return LoadAs<V4>(p);
  if constexpr (blocks == 1) return V4{} + *p;
  V4 v = {};
  for (size_t k = 0; k < blocks; ++k) v[k] = p[k];
  return v;
}

// acc[i] lane j += block b + j of weight row n + i times the activation row, for j < blocks. The pointers stand at
// block b and are moved past what was read. (Plain arrays: GCC keeps them in registers, which it does not do with a
// struct.)
template <class F, size_t blocks, size_t rows>
EDGEADAPT_INLINE void AddBlocks(const QuantWeight& w, size_t n, size_t b, const uint8_t** codes, const float** scales,
                                const int8_t** q, const float* s_row, const int32_t* sums_row, V4* acc) {
  I4 dot[rows];
  const size_t block = F::Block(w);
  if constexpr (F::bits == 8) {
    Dots::template Row8<blocks, rows>(codes, q, block, dot);
  } else {
    Dots::template Row4<blocks, rows>(codes, q, dot);
    for (size_t k = 32; blocks == 1 && k < block; k += 32) {  // larger blocks come one at a time
      I4 piece[rows];
      Dots::template Row4<1, rows>(codes, q, piece);
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) dot[i] += piece[i];
    }
  }
  const I4 sums = blocks == 1 ? I4{sums_row[b]} : LoadAs<I4>(sums_row + b);
  const V4 s = LoadNumbers<blocks == 1 ? 1 : 4>(s_row + b);
  EDGEADAPT_UNROLL
  for (size_t i = 0; i < rows; ++i) {
    const I4 centred = Points<F::bits, F::points>::Of(w, n + i).template Centre<blocks>(dot[i], sums, b);
    acc[i] += __builtin_convertvector(centred, V4) * (s * LoadNumbers<blocks>(scales[i]));
    scales[i] += blocks;
  }
}

template <class F, size_t rows>
EDGEADAPT_INLINE void MultiplyRow(const QuantWeight& w, const QuantRows& x, size_t n, float* y) {
  const uint8_t* codes[rows];
  const float* scales[rows];
  EDGEADAPT_UNROLL
  for (size_t i = 0; i < rows; ++i) {
    codes[i] = w.data + (n + i) * w.nb * F::Block(w) * F::bits / 8;
    scales[i] = w.scales + (n + i) * w.nb;
  }
  const int8_t* q = x.q;
  V4 acc[rows] = {};
  size_t b = 0;
  if (F::bits == 8 || F::Block(w) == 32) {
    for (; b + 4 <= w.nb; b += 4) AddBlocks<F, 4, rows>(w, n, b, codes, scales, &q, x.s, x.sums, acc);
    if (b + 2 <= w.nb) {
      AddBlocks<F, 2, rows>(w, n, b, codes, scales, &q, x.s, x.sums, acc);
      b += 2;
    }
  }
  for (; b < w.nb; ++b) AddBlocks<F, 1, rows>(w, n, b, codes, scales, &q, x.s, x.sums, acc);
  EDGEADAPT_UNROLL
  for (size_t i = 0; i < rows; ++i) y[n + i] = Dots::Sum(acc[i]);
}

template <class F, size_t rows>
EDGEADAPT_INLINE void MultiplyPanel(const QuantWeight& w, const QuantRows& x, size_t count, size_t n, float* y) {
  const size_t block = F::Block(w);
  const uint8_t* codes[rows];
  const float* scales[rows];
  EDGEADAPT_UNROLL
  for (size_t i = 0; i < rows; ++i) {
    codes[i] = w.data + (n + i) * w.nb * block * F::bits / 8;
    scales[i] = w.scales + (n + i) * w.nb;
  }
  const int8_t* q = x.q;
  V4 acc[rows] = {};
  for (size_t b = 0; b < w.nb; ++b) {
    I4 dot[rows];
    if constexpr (F::bits == 8) {
      Dots::template Panel8<rows>(codes, &q, block, dot);
    } else {
      Dots::template Panel4<rows>(codes, &q, dot);
      for (size_t k = 32; k < block; k += 32) {
        I4 piece[rows];
        Dots::template Panel4<rows>(codes, &q, piece);
        EDGEADAPT_UNROLL
        for (size_t i = 0; i < rows; ++i) dot[i] += piece[i];
      }
    }
    const I4 sums = LoadAs<I4>(x.sums + b * kPanel);
    const V4 s = LoadAs<V4>(x.s + b * kPanel);
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) {
      const I4 centred = Points<F::bits, F::points>::Of(w, n + i).CentreAll(dot[i], sums, b);
      acc[i] += __builtin_convertvector(centred, V4) * (s * scales[i][b]);
    }
  }
  if (w.bias != nullptr) {
    EDGEADAPT_UNROLL
    for (size_t i = 0; i < rows; ++i) acc[i] += w.bias[n + i];
  }
  if (count == kPanel) {
    float* to = y + n;
    EDGEADAPT_UNROLL
    for (size_t r = 0; r < kPanel; ++r, to += w.N) {
      EDGEADAPT_UNROLL
      for (size_t i = 0; i < rows; ++i) to[i] = acc[i][r];
    }
  } else {
    float numbers[rows][kPanel];
    __builtin_memcpy(numbers, acc, sizeof numbers);  // a copy: an index that is not known would keep acc in memory
    for (size_t r = 0; r < count; ++r) {
      for (size_t i = 0; i < rows; ++i) y[r * w.N + n + i] = numbers[i][r];
    }
  }
}

// The loops proper take their arguments by value: a store into y could not be told from one into a QuantWeight
// elsewhere.
template <class F>
void RowAs(F, QuantWeight w, QuantRows x, size_t begin, size_t end, float* y) {
  size_t n = begin;
  for (; n + kRowsAtOnce <= end; n += kRowsAtOnce) MultiplyRow<F, kRowsAtOnce>(w, x, n, y);
  for (; n < end; ++n) MultiplyRow<F, 1>(w, x, n, y);
  if (w.bias == nullptr) return;
  for (n = begin; n < end; ++n) y[n] += w.bias[n];
}

template <class F>
void PanelAs(F, QuantWeight w, QuantRows x, size_t count, size_t begin, size_t end, float* y) {
  size_t n = begin;
  for (; n + kPanelRowsAtOnce <= end; n += kPanelRowsAtOnce) MultiplyPanel<F, kPanelRowsAtOnce>(w, x, count, n, y);
  for (; n < end; ++n) MultiplyPanel<F, 1>(w, x, count, n, y);
}

// loops(form) for the form of `w`: what the exporter writes is compiled for itself, the rest in common.
template <bool points, class Loops>
EDGEADAPT_INLINE void With(const QuantWeight& w, const Loops& loops) {
  if (w.bits == 4) {
    w.block == 32 ? loops(Form<4, points, 32>()) : loops(Form<4, points, 0>());
  } else if (w.block == 64) {
    loops(Form<8, points, 64>());
  } else {
    w.block == 128 ? loops(Form<8, points, 128>()) : loops(Form<8, points, 0>());
  }
}
template <class Loops>
EDGEADAPT_INLINE void With(const QuantWeight& w, const Loops& loops) {
  w.zero_points != nullptr ? With<true>(w, loops) : With<false>(w, loops);
}

void Row(const QuantWeight& w, const QuantRows& x, size_t begin, size_t end, float* y) {
  With(w, [&](auto form) { RowAs(form, w, x, begin, end, y); });
}

void Panel(const QuantWeight& w, const QuantRows& x, size_t count, size_t begin, size_t end, float* y) {
  With(w, [&](auto form) { PanelAs(form, w, x, count, begin, end, y); });
}

}  // namespace

const QuantLoops EDGEADAPT_QUANT = {EDGEADAPT_ISA, Dots::kFlipped, Quantise, Row, Panel};

}  // namespace edgeadapt
