// x86-64 with AVX-512 VNNI: VPDPBUSD is the primitive itself.
#include <immintrin.h>

#include "quant_dots.h"

namespace edgeadapt {
namespace {

EDGEADAPT_INLINE __m256i AddProducts(__m256i sum, __m256i codes, __m256i q) {
  return _mm256_dpbusd_epi32(sum, codes, q);
}

}  // namespace
}  // namespace edgeadapt

#include "quant_x86.h"

#define EDGEADAPT_QUANT kQuantAvx512Vnni
#define EDGEADAPT_ISA "avx512vnni"
#include "quant_impl.h"
