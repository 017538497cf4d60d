// TanhGelu: z = x / (1 + exp(-t)), t = 2 sqrt(2 / pi) (x + 0.044715 x^3).
//
//   x, z  float32 [..., d]
//
// exp(-t) = 2^a with a = x (k0 + k1 x^2) is 2^n p(a - n), n the nearest integer and p a polynomial on [-1/2, 1/2] with
// a relative error of 1.1e-7. One walk, four numbers at a time on every processor: this op is registered where stock
// ONNX Runtime is slower (Cortex-A72), and there registers hold four.
#include "fours.h"
#include "ops.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace edgeadapt {
namespace {

typedef uint32_t U __attribute__((vector_size(16)));  // of floats' bits: sums may wrap around

// A NaN stays a NaN.
inline Four Clamp(Four a, float low, float high) {
#if defined(__aarch64__)
  return reinterpret_cast<Four>(
      vminq_f32(vmaxq_f32(reinterpret_cast<float32x4_t>(a), vdupq_n_f32(low)), vdupq_n_f32(high)));
#else
  const Four least = Four{} + low, most = Four{} + high;
  a = a < least ? least : a;
  return a > most ? most : a;
#endif
}

inline Four Gelu(Four x) {
  constexpr float k0 = -2.302208198f, k1 = -0.1029432396f;  // -2 sqrt(2 / pi) / log(2), and 0.044715 of it
  constexpr float kShift = 12582912.0f;                     // 1.5 * 2^23: what is added to it is rounded to an integer
  const Four a = Clamp(x * (k0 + k1 * (x * x)), -126.0f, 126.0f);
  const Four shifted = a + kShift;
  const Four r = a - (shifted - kShift);
  Four p = 9.671697938e-3f + r * 1.321867248e-3f;
  p = 5.550892952e-2f + r * p;
  p = 2.402223800e-1f + r * p;
  p = 6.931468559e-1f + r * p;
  p = 1.0f + r * p;
  const Four power = reinterpret_cast<Four>(reinterpret_cast<U>(p) + (reinterpret_cast<U>(shifted) << 23));
  return x / (1.0f + power);
}

void Walk(const float* x, float* z, size_t n) {
  const float* const end = x + n;
  for (; x + 8 <= end; x += 8, z += 8) {
    const Four first = LoadFour(x), second = LoadFour(x + 4);
    StoreFour(z, Gelu(first));
    StoreFour(z + 4, Gelu(second));
  }
  for (; x < end; ++x, ++z) *z = Gelu(Four{*x})[0];
}

struct TanhGelu : PlainKernel {
  static constexpr const char* kName = "TanhGelu";
  static constexpr Input kInputs[] = {{"x", kFloat}};
  static constexpr int kInPlace = 0;

  OrtStatus* Compute(Context& context) const {
    Tensor x;
    if (OrtStatus* status = context.Get(0, kInputs[0], &x)) return status;
    if (x.rank < 1) return context.Invalid("input 'x' is a scalar, expected [..., d]");
    float* z = nullptr;
    if (OrtStatus* status = context.Output(x, &z)) return status;
    const float* from = x.as<float>();
    return context.For(x.size(), x.size() * 8,
                       [=](size_t begin, size_t end) { Walk(from + begin, z + begin, end - begin); });
  }
};

}  // namespace

OrtCustomOp* MakeTanhGelu(const OrtApi* api) { return MakeOp<TanhGelu>(api); }

}  // namespace edgeadapt
