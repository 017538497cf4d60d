#include "quant.h"

#include "cpu.h"

namespace edgeadapt {

const QuantLoops* SelectQuantLoops() {
  static constexpr Variant<QuantLoops> kVariants[] = {
#if defined(__x86_64__)
      {Isa::kAvx512Vnni, &kQuantAvx512Vnni},
      {Isa::kAvx2, &kQuantAvx2},
#elif defined(__aarch64__)
      {Isa::kDotProduct, &kQuantDotProduct},
      {Isa::kBaseline, &kQuantNeon},
#endif
      {Isa::kScalar, &kQuantScalar}};
  return Select(kVariants);
}

}  // namespace edgeadapt
