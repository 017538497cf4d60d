// What an instruction set brings to the loops of quant.h: its integer dot products. A file quant_<set>.cc includes this
// header, defines in the anonymous namespace
//
//     struct Dots {
//       static constexpr int32_t kOffset8;   // 8-bit codes enter a dot product as c - kOffset8, 4-bit ones as they are
//
//       // One activation row, `rows` weight rows, the next `blocks` (1, 2 or 4) blocks of each; at 4 bits of 32 codes.
//       // out[i] lane b = sum_k c_k q_k over block b of the codes at w[i]; lanes from `blocks` on are zero. Of a
//       single
//       // block the four lanes together are the sum.
//       template <size_t blocks, size_t rows> static void Row4(const uint8_t** w, const int8_t** q, I4* out);
//       template <size_t blocks, size_t rows>
//       static void Row8(const uint8_t** w, const int8_t** q, size_t block, I4* out);
//
//       // kPanel activation rows, `rows` weight rows, the next piece of 32 codes at 4 bits, the next block at 8.
//       // out[i] lane r = sum_k c_k q_rk over the codes at w[i].
//       template <size_t rows> static void Panel4(const uint8_t** w, const int8_t** q, I4* out);
//       template <size_t rows> static void Panel8(const uint8_t** w, const int8_t** q, size_t block, I4* out);
//
//       static float Sum(V4 v);              // of the four lanes
//     };
//
// and includes quant_impl.h. Each function moves the pointers w[i] and q past what it has read. As in vectors_impl.h,
// no include may bring inline functions of external linkage: the linker could pick the copy that was compiled for a
// newer processor.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "inlining.h"
#include "quant.h"

namespace edgeadapt {
namespace {

typedef float V4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
typedef uint8_t B16 __attribute__((vector_size(16)));

}  // namespace
}  // namespace edgeadapt
