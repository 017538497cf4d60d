// Which instruction set runs: the widest that this processor has, or the one that a test asks for.
#include "vectors.h"

#include <cstdlib>
#include <cstring>

namespace edgeadapt {
namespace {

struct Candidate {
  const Vectors* vectors;
  bool usable;
};

}  // namespace

const Vectors* SelectVectors() {
#if defined(__x86_64__)
  // Avx2 is compiled with FMA and F16C, so all three must be there; the same holds for AVX-512 and its parts.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  const Candidate candidates[] = {// best first
#if defined(__x86_64__)
                                  {&kVectorsAvx512, avx512},
                                  {&kVectorsAvx2, avx2},
#endif
                                  {&kVectorsBaseline, true},
                                  {&kVectorsScalar, true}};
  const char* asked = std::getenv("EDGEADAPT_OPS_ISA");
  for (const Candidate& candidate : candidates) {
    const bool meant = asked == nullptr || *asked == '\0' || std::strcmp(asked, candidate.vectors->name) == 0;
    if (meant && candidate.usable) return candidate.vectors;
  }
  return nullptr;
}

}  // namespace edgeadapt
