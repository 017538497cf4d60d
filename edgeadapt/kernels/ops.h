// What a file that holds an op needs. A new op: its own file, which defines Make<Name>, and one line in
// registration.cc.
#pragma once

#include "cpu.h"
#include "ort.h"
#include "vectors.h"

namespace edgeadapt {

// A kernel made of the loops of vectors.h.
struct VectorKernel {
  const Vectors* vectors;

  bool Select() {
    vectors = SelectVectors();
    return vectors != nullptr;
  }
};

// A kernel without a table of loops; it still refuses an EDGEADAPT_OPS_ISA that cannot be.
struct PlainKernel {
  bool Select() {
    Isa best;
    return BestIsa(&best);
  }
};

// The one way to make an op: it lives as long as the process, because sessions may. Null without memory.
template <class Kernel>
OrtCustomOp* MakeOp(const OrtApi* api) {
  auto* op = Make<Op<Kernel>>();
  if (op != nullptr) op->InferShapesWith(api);
  return op;
}

}  // namespace edgeadapt
