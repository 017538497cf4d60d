#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(SpectralUpdate, source) {
  const int64_t B = source.UpTo(3), T = source.UpTo(4), d = source.UpTo(80), m = source.UpTo(80);
  const int64_t N = 1 + source.UpTo(40), first = source.UpTo(N - 1), count = 1 + source.UpTo(N - first - 1);
  // A span from [0, 1) is empty: any other pair of numbers would have to be in order.
  const Argument span{kInt64, {N, 2}, 1}, states{kUint8, {B, T, N}, 3};
  return {{{kFloat, {B, T, m}},
           {kFloat, {B, T, d}},
           states,
           {kHalf, {N, d + m}},
           {kInt8, {N, d + m}},
           {kFloat, {N, 2}},
           span},
          {{"first", first}, {"count", count}}};
}
