#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(LowRankUpdate, source) {
  const int64_t B = source.UpTo(3), T = source.UpTo(4), d = source.UpTo(80), m = source.UpTo(80),
                n = source.UpTo(3) + 1;
  const int64_t r = source.OneIn(16) ? source.UpTo(1024) : source.UpTo(20);
  const ONNXTensorElementDataType factor = source.OneIn(2) ? kHalf : kFloat;
  Argument A{factor, {d, r}}, rows{factor, {r, m}}, index{kInt64, {B}, n};
  index.given = source.OneIn(2);
  if (index.given) {
    A.shape.insert(A.shape.begin(), n);
    rows.shape.insert(rows.shape.begin(), n);
  }
  return {{{kFloat, {B, T, m}}, {kFloat, {B, T, d}}, A, rows, index}};
}
