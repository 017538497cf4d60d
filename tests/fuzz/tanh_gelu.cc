#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(TanhGelu, source) {
  const int64_t B = source.UpTo(3), T = source.UpTo(5), d = source.UpTo(150);
  return {{{kFloat, {B, T, d}}}};
}
