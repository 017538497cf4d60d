#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(AtomMixUpdate, source) {
  const int64_t B = source.UpTo(3), T = source.UpTo(4), d = source.UpTo(80), m = source.UpTo(80);
  const int64_t M = source.UpTo(20) + 1, S = source.UpTo(3), k = source.UpTo(3) + 1, R = source.UpTo(2) + 1;
  const int64_t row = source.UpTo(R - 1), reads = S == 0 || source.OneIn(2) ? 1 : S;
  return {{{kFloat, {B, T, m}},
           {kFloat, {B, T, d}},
           {kFloat, {M, m + reads * d + R * S}},
           {kInt64, {S, 2}, m + 1},
           {kInt64, {B, T, k}, M},
           {kFloat, {B, T, k}}},
          {{"row", row}, {"reads", reads}}};
}
