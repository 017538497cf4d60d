// The ops of this library, one file each. A new op: its file, one line here, one line in registration.cc.
#pragma once

#include "ort.h"

namespace edgeadapt {

OrtCustomOp* MakeRankOneUpdate(const OrtApi* api);
OrtCustomOp* MakeLowRankUpdate(const OrtApi* api);
OrtCustomOp* MakeHimalayaDirection(const OrtApi* api);

// The one way to make an op: it lives as long as the process, because sessions may.
template <class Kernel>
OrtCustomOp* MakeOp(const OrtApi* api) {
  auto* op = Make<Op<Kernel>>();
  if (op != nullptr) op->InferShapesWith(api);
  return op;
}

}  // namespace edgeadapt
