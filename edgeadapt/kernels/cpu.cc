#include "cpu.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace edgeadapt {
namespace {

constexpr struct {
  const char* name;
  Isa isa;
} kNames[] = {{"scalar", Isa::kScalar}, {"baseline", Isa::kBaseline},     {"avx2", Isa::kAvx2},
              {"avx512", Isa::kAvx512}, {"avx512vnni", Isa::kAvx512Vnni}, {"dotprod", Isa::kDotProduct}};

#if defined(__x86_64__)
bool HasF16c() {
#if defined(__clang__)  // its __builtin_cpu_supports does not know this one; the instruction itself is slow in a guest
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
#else
  return __builtin_cpu_supports("f16c");
#endif
}
#endif

}  // namespace

bool Has(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
    case Isa::kBaseline:
      return true;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
    case Isa::kAvx512:
      return Has(Isa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::kAvx512Vnni:
      return Has(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
    case Isa::kDotProduct:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#endif
    default:
      return false;
  }
}

bool BestIsa(Isa* isa) {
  const char* asked = std::getenv("EDGEADAPT_OPS_ISA");
  const bool any = asked == nullptr || *asked == '\0' || std::strcmp(asked, "best") == 0;
  bool found = false;
  for (const auto& [name, candidate] : kNames) {
    if ((any || std::strcmp(asked, name) == 0) && Has(candidate)) {
      *isa = candidate;  // the last one wins: they rise
      found = true;
    }
  }
  return found;
}

}  // namespace edgeadapt
