#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(AtomRoute, source) {
  const int64_t B = source.UpTo(3), T = source.UpTo(4), d = source.UpTo(80) + 1, r = source.UpTo(20);
  const int64_t M = source.OneIn(16) ? source.UpTo(1023) + 1 : source.UpTo(40) + 1, most = M < 8 ? M : 8;
  const int64_t k = source.UpTo(most - 1) + 1;
  return {{{kFloat, {B, T, d}}, {kFloat, {d, r}}, {kFloat, {r, M}}, {kFloat, {B, 1, M}}}, {{"k", k}}};
}
