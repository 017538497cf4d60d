#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(LowRankUpdate, source) {
  const int64_t B = source.UpTo(3), T = source.UpTo(4), d = source.UpTo(80), m = source.UpTo(80),
                n = source.UpTo(3) + 1;
  const int64_t r = source.OneIn(16) ? source.UpTo(1024) : source.UpTo(20);
  const ONNXTensorElementDataType factors[] = {kFloat, kHalf, kInt8}, factor = factors[source.UpTo(2)];
  Argument A{factor, {d, r}}, rows{factor, {r, m}}, index{kInt64, {B}, n}, scales{kFloat, {r}};
  index.given = source.OneIn(2);
  if (index.given) {
    A.shape.insert(A.shape.begin(), n);
    rows.shape.insert(rows.shape.begin(), n);
    scales.shape.insert(scales.shape.begin(), n);
  }
  scales.given = factor == kInt8;
  return {{{kFloat, {B, T, m}}, {kFloat, {B, T, d}}, A, rows, index, scales}};
}
