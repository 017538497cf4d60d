// SpectralUpdate: z = y + the directions of a linear map that a plan has switched on, each in int8 or in fp16.
//
//   y  float32 [B, T, m]      x  float32 [B, T, d]      states  uint8 [B, T, N]: off 0, int8 1, fp16 2
//   wide  float16 [N, d + m]: V | U      narrow  int8 [N, d + m]: V8 | U8      scales  float32 [N, 2]: s, s8
//   span  int64 [N, 2]: the columns that a direction writes     z  float32 [B, T, m]   macs  float32 [B, T, 2]
//
// The node's directions are first .. first + count - 1. What is off is neither read nor counted; macs are the lengths
// of the loops that ran. int8 directions take q = round(x / c) and h as integers (ops/spectral_update.py has the
// equations); fp16 is widened to float32.
#include <cmath>
#include <limits>

#include "ops.h"

namespace edgeadapt {
namespace {

constexpr uint32_t kInfinity = 0x7F800000u;
constexpr float kSmallest = 1e-30f, kLevels = 127.0f;

float AtLeast(float value) { return value > kSmallest ? value : kSmallest; }

float FromBits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

struct SpectralUpdate : VectorKernel {
  static constexpr const char* kName = "SpectralUpdate";
  static constexpr Input kInputs[] = {{"y", kFloat},     {"x", kFloat},      {"states", kUint8}, {"wide", kHalf},
                                      {"narrow", kInt8}, {"scales", kFloat}, {"span", kInt64}};
  static constexpr size_t kSpan = 6;
  static constexpr int kInPlace = 0;
  static constexpr size_t kOutputs = 2;
  static constexpr int64_t kLastWidth = 2;
  static constexpr int64_t kMostDirections = 1024, kMostRows = int64_t{1} << 32, kMostDepth = 1 << 16;
  static constexpr size_t kStrip = 512;  // columns whose integer sums are kept at a time

  int64_t first, count;
  Tensor span;  // where it is constant
  bool constant;

  struct Given {
    Tensor y, x, states, wide, narrow, scales, span;

    // Of direction i.
    const Half* V(size_t i) const { return wide.as<Half>() + i * wide.dim(1); }
    const Half* U(size_t i) const { return V(i) + x.dim(2); }
    const int8_t* V8(size_t i) const { return narrow.as<int8_t>() + i * narrow.dim(1); }
    const int8_t* U8(size_t i) const { return V8(i) + x.dim(2); }
    float s(size_t i) const { return scales.as<float>()[2 * i]; }
    float s8(size_t i) const { return scales.as<float>()[2 * i + 1]; }
  };

  OrtStatus* Load(const NodeInfo& node) {
    constant = true;
    if (OrtStatus* status = node.Get("first", 0, kMostRows, &first)) return status;
    if (OrtStatus* status = node.Get("count", 1, kMostDirections, &count)) return status;
    return node.Constant(kSpan, kInputs[kSpan], &span, &constant);
  }

  OrtStatus* Compute(Context& context) const {
    Given given;
    Tensor* const inputs[] = {&given.y, &given.x, &given.states, &given.wide, &given.narrow, &given.scales};
    for (size_t i = 0; i < kSpan; ++i) {
      if (OrtStatus* status = context.Get(i, kInputs[i], inputs[i])) return status;
    }
    given.span = span;
    if (!constant) {
      if (OrtStatus* status = context.Get(kSpan, kInputs[kSpan], &given.span)) return status;
    }
    if (OrtStatus* status = Check(context, given)) return status;
    float *z = nullptr, *macs = nullptr;
    if (OrtStatus* status = context.Output(given.y, &z, 0)) return status;
    if (OrtStatus* status = context.OutputOfWidth(given.y, 2, &macs, 1)) return status;
    const size_t rows = given.y.dim(0) * given.y.dim(1), d = given.x.dim(2), m = given.y.dim(2);
    return context.For(rows, rows * static_cast<size_t>(count) * (d + m), [&](size_t begin, size_t end) {
      for (size_t row = begin; row < end; ++row) Token(given, row, z, macs);
    });
  }

  OrtStatus* Check(const Context& context, const Given& given) const {
    const int64_t any[] = {-1, -1, -1};
    if (OrtStatus* status = context.Expect(given.y, "y", 3, any)) return status;
    const int64_t x_shape[] = {given.y.shape[0], given.y.shape[1], -1};
    if (OrtStatus* status = context.Expect(given.x, "x", 3, x_shape)) return status;
    const int64_t d = given.x.shape[2], m = given.y.shape[2];
    if (d > kMostDepth) {
      return context.Invalid("input 'x' is %lld wide; %lld is the most", static_cast<long long>(d),
                             static_cast<long long>(kMostDepth));
    }
    const int64_t any_rows[] = {-1, -1};
    if (OrtStatus* status = context.Expect(given.wide, "wide", 2, any_rows)) return status;
    const int64_t N = given.wide.shape[0], rows_of[] = {N, m > INT64_MAX - d ? INT64_MAX : d + m}, pairs[] = {N, 2};
    const int64_t states[] = {given.y.shape[0], given.y.shape[1], N};
    if (OrtStatus* status = context.Expect(given.states, "states", 3, states)) return status;
    if (OrtStatus* status = context.Expect(given.wide, "wide", 2, rows_of)) return status;
    if (OrtStatus* status = context.Expect(given.narrow, "narrow", 2, rows_of)) return status;
    if (OrtStatus* status = context.Expect(given.scales, "scales", 2, pairs)) return status;
    if (OrtStatus* status = context.Expect(given.span, "span", 2, pairs)) return status;
    if (first + count > N) {
      return context.Invalid("directions %lld + %lld of %lld", static_cast<long long>(first),
                             static_cast<long long>(count), static_cast<long long>(N));
    }
    const int64_t* own = given.span.as<int64_t>() + 2 * first;
    for (int64_t i = 0; i < count; ++i) {
      if (own[2 * i] < 0 || own[2 * i] > own[2 * i + 1] || own[2 * i + 1] > m) {
        return context.Invalid("span[%lld] is %lld..%lld; y has %lld columns", static_cast<long long>(first + i),
                               static_cast<long long>(own[2 * i]), static_cast<long long>(own[2 * i + 1]),
                               static_cast<long long>(m));
      }
    }
    const size_t rows = given.y.dim(0) * given.y.dim(1), all = given.wide.dim(0);
    for (size_t row = 0; row < rows; ++row) {
      const uint8_t* state = given.states.as<uint8_t>() + row * all + first;
      uint8_t most = 0;
      for (int64_t i = 0; i < count; ++i) most = state[i] > most ? state[i] : most;
      if (most > 2) return context.Invalid("a state is %d; it must be 0, 1 or 2", most);
    }
    return nullptr;
  }

  // One row of z and its counts.
  void Token(const Given& given, size_t row, float* z_all, float* macs_all) const {
    const size_t d = given.x.dim(2), m = given.y.dim(2), from = static_cast<size_t>(first);
    const size_t all = given.wide.dim(0), n = static_cast<size_t>(count);
    const float* y = given.y.as<float>() + row * m;
    const float* x = given.x.as<float>() + row * d;
    const uint8_t* state = given.states.as<uint8_t>() + row * all + from;
    float *z = z_all + row * m, *macs = macs_all + 2 * row;
    size_t narrow[kMostDirections], wide[kMostDirections], narrows = 0, wides = 0;
    for (size_t i = 0; i < n; ++i) {
      narrow[narrows] = wide[wides] = from + i;
      narrows += state[i] == 1;
      wides += state[i] == 2;
    }
    const uint32_t largest = narrows + wides > 0 ? vectors->largest_bits(x, d) : 0;
    size_t done8 = 0, done16 = 0;
    if (narrows > 0 && largest < kInfinity) {
      done8 = Narrow(given, narrow, narrows, FromBits(largest), x, y, z);
    } else {
      if (z != y) {
        for (size_t j = 0; j < m; ++j) z[j] = y[j];
      }
      for (size_t k = 0; k < narrows; ++k) done8 += d + Width(given, narrow[k]);  // lost, and counted as the body does
    }
    for (size_t k = 0; k < wides; ++k) {
      const size_t i = wide[k], begin = Begin(given, i), width = Width(given, i);
      const float h = given.s(i) * vectors->dot_half(given.V(i), x, d);
      vectors->add_scaled_half(h, given.U(i) + begin, z + begin, width);
      done16 += d + width;
    }
    if (largest >= kInfinity) {
      for (size_t j = 0; j < m; ++j) z[j] = std::numeric_limits<float>::quiet_NaN();
    }
    macs[0] = static_cast<float>(done8);
    macs[1] = static_cast<float>(done16);
  }

  // z = y + the int8 directions; the multiply-adds that it took.
  size_t Narrow(const Given& given, const size_t* chosen, size_t n, float largest, const float* x, const float* y,
                float* z) const {
    const size_t d = given.x.dim(2), m = given.y.dim(2);
    int8_t q[kMostDepth], p[kMostDirections];
    float h[kMostDirections], most = 0.0f;
    const float c = AtLeast(largest) / kLevels;
    vectors->quantise(x, c, q, d);
    size_t done = 0;
    for (size_t k = 0; k < n; ++k) {
      const size_t i = chosen[k];
      const float scale = given.s8(i) * c;
      h[k] = static_cast<float>(vectors->dot_integers(given.V8(i), q, d)) * scale;
      const float size = std::fabs(h[k]);
      most = size > most ? size : most;
      done += d;
    }
    const float e = AtLeast(most) / kLevels;
    vectors->quantise(h, e, p, n);
    for (size_t strip = 0; strip < m; strip += kStrip) {
      const size_t end = strip + kStrip < m ? strip + kStrip : m;
      int32_t sums[kStrip] = {};
      for (size_t k = 0; k < n; ++k) {
        const size_t i = chosen[k];
        size_t from = Begin(given, i), to = from + Width(given, i);
        from = from > strip ? from : strip;
        to = to < end ? to : end;
        if (from >= to) continue;
        vectors->add_scaled_integers(p[k], given.U8(i) + from, sums + (from - strip), to - from);
        done += to - from;
      }
      vectors->add_scaled_sums(y + strip, e, sums, z + strip, end - strip);
    }
    return done;
  }

  static size_t Begin(const Given& given, size_t i) { return static_cast<size_t>(given.span.as<int64_t>()[2 * i]); }
  static size_t Width(const Given& given, size_t i) {
    return static_cast<size_t>(given.span.as<int64_t>()[2 * i + 1]) - Begin(given, i);
  }
};

}  // namespace

OrtCustomOp* MakeSpectralUpdate(const OrtApi* api) { return MakeOp<SpectralUpdate>(api); }

}  // namespace edgeadapt
