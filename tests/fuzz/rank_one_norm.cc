#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(RankOneNorm, source) {
  const int64_t B = source.UpTo(3), T = source.UpTo(5), d = source.UpTo(150);
  const float epsilons[] = {1e-5f, 1e-12f, 1.0f, 1e-42f};
  return {{{kFloat, {B, T, d}}, {kFloat, {B, T, d}}, {kFloat, {B, 1, d}}, {kFloat, {B, 1, d}}, {kFloat, {d}}},
          {},
          {{"epsilon", epsilons[source.UpTo(3)]}}};
}
