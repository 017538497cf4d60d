#include "target.h"

using namespace edgeadapt_fuzz;

EDGEADAPT_FUZZ(QuantMatMul, source) {
  const int64_t bits = source.OneIn(2) ? 8 : 4, block = int64_t{bits == 4 ? 32 : 16} << source.UpTo(bits == 4 ? 3 : 4);
  const int64_t K = 1 + source.UpTo(source.OneIn(8) ? 600 : 130), N = 1 + source.UpTo(40), nb = (K + block - 1) / block;
  Argument x{kFloat, {}};
  const int64_t rank = source.UpTo(3);
  for (int64_t i = 0; i < rank; ++i) x.shape.push_back(source.UpTo(i == 0 ? 9 : 2));
  x.shape.push_back(K);
  Argument zero_points{kUint8, {N, (nb * bits + 7) / 8}}, bias{kFloat, {N}};
  zero_points.given = source.OneIn(2);
  bias.given = source.OneIn(4);
  return {{x, {kUint8, {N, nb, block * bits / 8}}, {kFloat, {N, nb}}, zero_points, bias},
          {{"K", K}, {"N", N}, {"bits", bits}, {"block_size", block}, {"accuracy_level", source.UpTo(4)}}};
}
