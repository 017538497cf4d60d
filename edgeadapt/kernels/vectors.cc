#include "vectors.h"

#include "cpu.h"

namespace edgeadapt {

const Vectors* SelectVectors() {
  static constexpr Variant<Vectors> kVariants[] = {
#if defined(__x86_64__)
      {Isa::kAvx512, &kVectorsAvx512},
      {Isa::kAvx2, &kVectorsAvx2},
#endif
      {Isa::kBaseline, &kVectorsBaseline},
      {Isa::kScalar, &kVectorsScalar}};
  return Select(kVariants);
}

}  // namespace edgeadapt
