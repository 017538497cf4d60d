// The dot products of quant_dots.h for 256-bit x86 vectors, over one primitive that each set brings before it includes
// this header: AddProducts(sum, codes, q), which adds to every 32-bit lane of `sum` the four products of its bytes,
// codes unsigned and q signed. 8-bit codes are unsigned as they lie in the file, so nothing is centred here.

namespace edgeadapt {
namespace {

struct Dots {
  static constexpr int32_t kOffset8 = 0;
  static constexpr bool kFlipped = false;

  EDGEADAPT_INLINE __m256i Load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  EDGEADAPT_INLINE __m256i Load16(const void* p) {
    return _mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  // Even codes in the low half, odd ones in the high half.
  EDGEADAPT_INLINE __m256i Unpack(const uint8_t* packed) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes), _mm256_set1_epi8(15));
  }
  EDGEADAPT_INLINE __m256i Add16(__m256i sum, const uint8_t* codes, const int8_t* q) {
    return AddProducts(sum, Load16(codes), Load16(q));
  }
  // Lane i of the result is the sum of the lanes of vector i.
  EDGEADAPT_INLINE I4 Fold(const __m256i* v) {
    const __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    return reinterpret_cast<I4>(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
  }

  template <size_t blocks, size_t rows>
  EDGEADAPT_INLINE void Row4(const uint8_t** w, const int8_t** q, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      __m256i sums[4] = {};
      for (size_t b = 0; b < blocks; ++b) sums[b] = AddProducts(sums[b], Unpack(w[i] + b * 16), Load32(*q + b * 32));
      out[i] = Fold(sums);
      w[i] += blocks * 16;
    }
    *q += blocks * 32;
  }
  template <size_t blocks, size_t rows>
  EDGEADAPT_INLINE void Row8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      __m256i sums[4] = {};
      for (size_t b = 0; b < blocks; ++b) {
        size_t k = b * block;
        for (const size_t end = k + block; k + 32 <= end; k += 32) {
          sums[b] = AddProducts(sums[b], Load32(w[i] + k), Load32(*q + k));
        }
        if (block == 16) sums[b] = Add16(sums[b], w[i] + k, *q + k);
      }
      out[i] = Fold(sums);
      w[i] += blocks * block;
    }
    *q += blocks * block;
  }
  template <size_t rows>
  EDGEADAPT_INLINE void Panel4(const uint8_t** w, const int8_t** q, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      const __m256i codes = Unpack(w[i]);
      __m256i sums[kPanel] = {};
      for (size_t r = 0; r < kPanel; ++r) sums[r] = AddProducts(sums[r], codes, Load32(*q + r * 32));
      out[i] = Fold(sums);
      w[i] += 16;
    }
    *q += kPanel * 32;
  }
  // Two activation rows share a vector: their pieces lie side by side.
  template <size_t rows>
  EDGEADAPT_INLINE void Panel8(const uint8_t** w, const int8_t** q, size_t block, I4* out) {
    for (size_t i = 0; i < rows; ++i) {
      __m256i sums[2] = {};
      for (size_t k = 0; k < block; k += 16) {
        const __m256i codes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w[i] + k)));
        for (size_t r = 0; r < 2; ++r) sums[r] = AddProducts(sums[r], codes, Load32(*q + k * kPanel + r * 32));
      }
      // hadd works within halves: [rows 0, 2 | rows 1, 3], then rows in order.
      const __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_setzero_si256());
      out[i] =
          reinterpret_cast<I4>(_mm_unpacklo_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
      w[i] += block;
    }
    *q += kPanel * block;
  }

  EDGEADAPT_INLINE float Sum(V4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }
};

}  // namespace
}  // namespace edgeadapt
