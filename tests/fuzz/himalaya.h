// The calls that the ops over HIMALAYA's tables accept: pool [B, d], task [B], then the tables in the ops' order.
#pragma once

#include "target.h"

namespace edgeadapt_fuzz {

inline Call HimalayaCall(Source& source) {
  const int64_t B = source.UpTo(3), d = 8 * (1 + source.UpTo(20)), w = source.UpTo(40), n = 1 + source.UpTo(31);
  return {{{kFloat, {B, d}},
           {kInt64, {B}, n},
           {kUint8, {40, d / 8 * 3}},
           {kHalf, {40, (d + 63) / 64}},
           {kHalf, {40}},
           {kInt8, {w, d + 17}},
           {kHalf, {w}},
           {kInt8, {80, w + 1}},
           {kHalf, {80}},
           {kInt8, {32, 16}},
           {kInt8, {n, 80}},
           {kHalf, {n}}}};
}

}  // namespace edgeadapt_fuzz
