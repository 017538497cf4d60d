// HimalayaTerms: the open atoms of a sequence, one by one. Once per prompt.
//
//   t_j = sqrt(|k_i| / sum_n |k_n| ||D_n||^2) D_i     i the j-th open atom by index with |k_i| ||D_i||^2 > 0; else 0
//
// k, D (the atoms) and the inputs are in himalaya.h. Only the open atoms are unpacked, twice: lengths, then rows.
#include "himalaya.h"

namespace edgeadapt {
namespace {

using himalaya::kOpen;
using himalaya::OpenAtom;

double SquaredLength(const OpenAtom& atom, size_t d) {
  double sum = 0.0;
  for (size_t start = 0; start < d; start += 8) {
    float values[8];
    atom.Octet(start, values);
    for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  }
  return sum;
}

void Scaled(const OpenAtom& atom, float by, size_t d, float* t) {
  for (size_t start = 0; start < d; start += 8) {
    float values[8];
    atom.Octet(start, values);
    for (size_t i = 0; i < 8; ++i) t[start + i] = by * values[i];
  }
}

struct HimalayaTerms : himalaya::Kernel {
  static constexpr const char* kName = "HimalayaTerms";
  static constexpr size_t kOutputs = kOpen;

  OrtStatus* Compute(Context& context) const {
    Tensor in[himalaya::kInputCount];
    if (OrtStatus* status = Get(context, in)) return status;
    float* t[kOpen] = {};
    for (size_t j = 0; j < kOpen; ++j) {
      if (OrtStatus* status = context.Output(in[himalaya::kPool], &t[j], j)) return status;
    }
    const Scratch<float> scratch(ScratchSize(in));
    if (!scratch.ok()) return context.OutOfMemory();
    const size_t d = in[himalaya::kPool].dim(1);
    for (size_t row = 0; row < in[himalaya::kPool].dim(0); ++row) {
      float* const terms[kOpen] = {t[0] + row * d, t[1] + row * d, t[2] + row * d};
      One(in, row, d, scratch.get(), terms);
    }
    return nullptr;
  }

  void One(const Tensor (&in)[himalaya::kInputCount], size_t row, size_t d, float* scratch,
           float* const (&terms)[kOpen]) const {
    OpenAtom open[kOpen];
    const size_t count = Open(in, row, scratch, open);
    double total = 0.0;
    size_t order[kOpen];  // of the atoms that weigh something, by index
    size_t used = 0;
    for (size_t n = 0; n < count; ++n) {
      const double mass = std::fabs(static_cast<double>(open[n].coefficient)) * SquaredLength(open[n], d);
      if (!(mass > 0.0)) continue;
      total += mass;
      size_t place = used++;
      for (; place > 0 && open[order[place - 1]].index > open[n].index; --place) order[place] = order[place - 1];
      order[place] = n;
    }
    for (size_t j = 0; j < kOpen; ++j) {
      if (j < used) {
        const OpenAtom& atom = open[order[j]];
        const double share = std::fabs(static_cast<double>(atom.coefficient)) / total;
        Scaled(atom, static_cast<float>(std::sqrt(share)), d, terms[j]);
      } else {
        for (size_t i = 0; i < d; ++i) terms[j][i] = 0.0f;
      }
    }
  }
};

}  // namespace

OrtCustomOp* MakeHimalayaTerms(const OrtApi* api) { return MakeOp<HimalayaTerms>(api); }

}  // namespace edgeadapt
