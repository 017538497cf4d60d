// x86-64 with AVX2. VPMADDUBSW would saturate for 8-bit codes (2 * 255 * 127), so bytes are widened to 16 bits: even
// and odd ones apart, which leaves every product in the 32-bit lane of its bytes.
#include <immintrin.h>

#include "quant_dots.h"

namespace edgeadapt {
namespace {

EDGEADAPT_INLINE __m256i AddProducts(__m256i sum, __m256i codes, __m256i q) {
  const __m256i low = _mm256_set1_epi16(0xFF);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, low), _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(q, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

}  // namespace
}  // namespace edgeadapt

#include "quant_x86.h"

#define EDGEADAPT_QUANT kQuantAvx2
#define EDGEADAPT_ISA "avx2"
#include "quant_impl.h"
