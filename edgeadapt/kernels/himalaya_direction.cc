// HimalayaDirection: one unit direction per sequence, out of three atoms at most. Once per prompt.
//
//   r = r~ / ||r~||, r~ = sum_j gate_j c_j atom_j         0 if r~ = 0; gates, c and the inputs are in himalaya.h
//
// Only the open atoms are unpacked. r~ and its norm are summed in double: a product of two floats is exact there, so
// atoms that cancel exactly give exactly 0, with or without fused multiply-add.
#include "himalaya.h"

namespace edgeadapt {
namespace {

using himalaya::kOpen;
using himalaya::OpenAtom;

// r (d) from the open atoms.
void Direction(const OpenAtom* atoms, size_t count, size_t d, float* r) {
  double squares = 0.0;
  for (size_t start = 0; start < d; start += 8) {
    double sums[8] = {};
    for (size_t n = 0; n < count; ++n) {
      float values[8];
      atoms[n].Octet(start, values);
      for (size_t i = 0; i < 8; ++i) {
        sums[i] += static_cast<double>(values[i]) * static_cast<double>(atoms[n].coefficient);
      }
    }
    for (size_t i = 0; i < 8; ++i) {
      squares += sums[i] * sums[i];
      r[start + i] = static_cast<float>(sums[i]);
    }
  }
  const double norm = std::sqrt(squares);
  for (size_t i = 0; i < d; ++i) r[i] = norm > 0.0 ? static_cast<float>(static_cast<double>(r[i]) / norm) : 0.0f;
}

struct HimalayaDirection : himalaya::Kernel {
  static constexpr const char* kName = "HimalayaDirection";

  OrtStatus* Compute(Context& context) const {
    Tensor in[himalaya::kInputCount];
    if (OrtStatus* status = Get(context, in)) return status;
    float* r = nullptr;
    if (OrtStatus* status = context.Output(in[himalaya::kPool], &r)) return status;
    const Scratch<float> scratch(ScratchSize(in));
    if (!scratch.ok()) return context.OutOfMemory();
    const size_t d = in[himalaya::kPool].dim(1);
    for (size_t row = 0; row < in[himalaya::kPool].dim(0); ++row) {
      OpenAtom open[kOpen];
      const size_t count = Open(in, row, scratch.get(), open);
      Direction(open, count, d, r + row * d);
    }
    return nullptr;
  }
};

}  // namespace

OrtCustomOp* MakeHimalayaDirection(const OrtApi* api) { return MakeOp<HimalayaDirection>(api); }

}  // namespace edgeadapt
