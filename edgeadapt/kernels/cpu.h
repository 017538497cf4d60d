// Which instruction set runs. Every family of kernels is compiled once per set, in files named by it
// (<family>_<set>.cc, CMakeLists.txt gives them their flags), and offers its tables best first:
//
//     static constexpr Variant<Vectors> kVariants[] = {
//     #if defined(__x86_64__)
//         {Isa::kAvx2, &kVectorsAvx2},
//     #endif
//         {Isa::kBaseline, &kVectorsBaseline}, {Isa::kScalar, &kVectorsScalar}};
//     const Vectors* vectors = Select(kVariants);
//
// The environment variable EDGEADAPT_OPS_ISA names the best set that may run: scalar, baseline, avx2, avx512,
// avx512vnni, dotprod, or best (for tests and measurements). A family without that set takes its best one below it.
// With the variable set, the library also offers the kernels that do not pay on this processor (quant_matmul.cc).
#pragma once

#include <cstddef>

namespace edgeadapt {

// In rising order; on one platform each set contains all that are below it.
enum class Isa {
  kScalar,      // one number at a time
  kBaseline,    // what the platform guarantees: SSE2 on x86-64, NEON on ARMv8.0 (Raspberry Pi 4)
  kAvx2,        // with FMA and F16C
  kAvx512,      // F, BW, DQ and VL
  kAvx512Vnni,  // and VNNI
  kDotProduct,  // ARMv8.2 SDOT and UDOT (Raspberry Pi 5)
};

// Does this processor have it, and does this build know it?
bool Has(Isa isa);

// The best set that may run; false if EDGEADAPT_OPS_ISA names one that is unknown or that this processor lacks.
bool BestIsa(Isa* isa);

template <class Table>
struct Variant {
  Isa isa;
  const Table* table;
};

// The first of `variants` (best first) that may run; null if there is none or EDGEADAPT_OPS_ISA is wrong.
template <class Table, size_t N>
const Table* Select(const Variant<Table> (&variants)[N]) {
  Isa best;
  if (!BestIsa(&best)) return nullptr;
  for (const Variant<Table>& variant : variants) {
    if (variant.isa <= best) return variant.table;
  }
  return nullptr;
}

}  // namespace edgeadapt
