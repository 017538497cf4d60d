// QuantMatMul: y = x W^T + bias, W in 4 or 8 bits as com.microsoft::MatMulNBits packs it.
//
//   x  float32 [..., K]      data  uint8 [N, nb, block bits / 8]      scales  float32 [N, nb]
//   zero_points  uint8 [N, ceil(nb bits / 8)], optional      bias  float32 [N], optional      y  float32 [..., N]
//
// The weights are read where they lie, usually in the mapped file: there is no second copy of them. One row of x
// (decoding) streams them once; many rows (a prompt) go through them in panels of kPanel, a strip of weight rows that
// fits into the first-level cache at a time.
#include <cstring>

#include "ops.h"
#include "quant.h"

namespace edgeadapt {
namespace {

constexpr size_t kStrip = 16;  // weight rows whose codes stay in a 32 KiB cache beside a panel (K = 1536: 12 or 24 KiB)

struct QuantMatMul {
  static constexpr const char* kName = "QuantMatMul";
  static constexpr Input kInputs[] = {{"x", kFloat},
                                      {"data", kUint8},
                                      {"scales", kFloat},
                                      {"zero_points", kUint8, kOptional},
                                      {"bias", kFloat, kOptional}};
  static constexpr int kInPlace = -1;
  static constexpr const char* kWidth = "N";
  static constexpr int64_t kMostColumns = int64_t{1} << 24, kMostBlock = 256;

  const QuantLoops* loops;
  QuantWeight shape;  // all but the pointers

  bool Select() {
    loops = SelectQuantLoops();
    return loops != nullptr;
  }

  OrtStatus* Load(const Attributes& attributes) {
    int64_t K, N, bits, block;
    if (OrtStatus* status = attributes.Get("K", 1, kMostColumns, &K)) return status;
    if (OrtStatus* status = attributes.Get("N", 1, int64_t{1} << 32, &N)) return status;
    if (OrtStatus* status = attributes.Get("bits", 4, 8, &bits)) return status;
    if (OrtStatus* status = attributes.Get("block_size", bits == 4 ? 32 : 16, kMostBlock, &block)) return status;
    if ((bits != 4 && bits != 8) || (block & (block - 1)) != 0) {
      return attributes.Invalid("bits is %d and block_size %lld; they must be 4 or 8, and a power of two",
                                static_cast<int>(bits), static_cast<long long>(block));
    }
    shape.K = static_cast<size_t>(K);
    shape.N = static_cast<size_t>(N);
    shape.block = static_cast<size_t>(block);
    shape.nb = (shape.K + shape.block - 1) / shape.block;
    shape.bits = static_cast<int>(bits);
    return nullptr;
  }

  OrtStatus* Compute(Context& context) const {
    Tensor x, data, scales, zero_points, bias;
    if (OrtStatus* status = context.Get(0, kInputs[0], &x)) return status;
    if (OrtStatus* status = context.Get(1, kInputs[1], &data)) return status;
    if (OrtStatus* status = context.Get(2, kInputs[2], &scales)) return status;
    if (OrtStatus* status = context.Get(3, kInputs[3], &zero_points)) return status;
    if (OrtStatus* status = context.Get(4, kInputs[4], &bias)) return status;
    if (OrtStatus* status = Check(context, x, data, scales, zero_points, bias)) return status;
    QuantWeight w = shape;
    w.data = data.as<uint8_t>();
    w.scales = scales.as<float>();
    w.zero_points = zero_points ? zero_points.as<uint8_t>() : nullptr;
    float* y = nullptr;
    if (OrtStatus* status = context.Output(x, w.N, &y)) return status;
    size_t rows = 1;
    for (size_t i = 0; i + 1 < x.rank; ++i) rows *= x.dim(i);
    if (rows == 0) return nullptr;
    const size_t at_once = rows < kPanel ? 1 : kPanel;  // a panel of three rows would cost as much as three single ones
    Panels panels(w, rows, at_once);
    if (!panels.ok()) return context.OutOfMemory();
    return at_once == 1 ? MultiplyRows(context, w, x.as<float>(), rows, panels, bias, y)
                        : MultiplyPanels(context, w, x.as<float>(), rows, panels, bias, y);
  }

 private:
  // Quantised activations: `count` panels of `at_once` rows, each [q | s | sums] (quant.h), zero until they are
  // written.
  class Panels {
   public:
    Panels(const QuantWeight& w, size_t rows, size_t at_once)
        : at_once_(at_once),
          codes_(w.nb * w.block * at_once),
          numbers_(w.nb * at_once + 3),
          count_((rows + at_once - 1) / at_once),
          memory_(Bytes(count_, stride())) {
      // The last panel may lack rows, and a single row is read three numbers past its end.
      if (memory_.ok()) std::memset(memory_.get() + (count_ - 1) * stride(), 0, stride());
      for (size_t p = 0; memory_.ok() && at_once == 1 && p + 1 < count_; ++p) {
        std::memset((*this)[p].s, 0, 2 * numbers_ * sizeof(float));
      }
    }
    bool ok() const { return memory_.ok(); }
    size_t count() const { return count_; }
    size_t at_once() const { return at_once_; }
    QuantRows operator[](size_t p) const {
      int8_t* start = memory_.get() + p * stride();
      void* numbers = start + codes_;
      float* s = static_cast<float*>(numbers);
      void* sums = s + numbers_;
      return {start, s, static_cast<int32_t*>(sums)};
    }

   private:
    size_t stride() const { return codes_ + 2 * numbers_ * sizeof(float); }
    // More than there can be where the product does not fit.
    static size_t Bytes(size_t count, size_t each) {
      size_t bytes = 0;
      return __builtin_mul_overflow(count, each, &bytes) ? ~size_t{0} : bytes;
    }

    size_t at_once_, codes_, numbers_, count_;
    Scratch<int8_t> memory_;
  };

  OrtStatus* Check(const Context& context, const Tensor& x, const Tensor& data, const Tensor& scales,
                   const Tensor& zero_points, const Tensor& bias) const {
    const auto number = [](size_t n) { return static_cast<int64_t>(n); };
    const QuantWeight& w = shape;
    if (x.rank < 1 || x.dim(x.rank - 1) != w.K) {
      return context.Invalid("the last dimension of input 'x' must be K = %zu", w.K);
    }
    const size_t bits = static_cast<size_t>(w.bits);
    const int64_t data_shape[] = {number(w.N), number(w.nb), number(w.block * bits / 8)};
    if (OrtStatus* status = context.Expect(data, "data", 3, data_shape)) return status;
    if (OrtStatus* status = context.Expect(scales, "scales", 2, data_shape)) return status;
    const int64_t points_shape[] = {number(w.N), number((w.nb * bits + 7) / 8)};
    if (zero_points) {
      if (OrtStatus* status = context.Expect(zero_points, "zero_points", 2, points_shape)) return status;
    }
    return bias ? context.Expect(bias, "bias", 1, data_shape) : nullptr;
  }

  OrtStatus* MultiplyRows(Context& context, const QuantWeight& w, const float* x, size_t rows, const Panels& panels,
                          const Tensor& bias, float* y) const {
    for (size_t r = 0; r < rows; ++r) loops->quantise(w, x + r * w.K, 1, 0, panels[r]);
    return ForStrips(context, w, rows, [&](size_t begin, size_t end) {
      for (size_t r = 0; r < rows; ++r) {
        loops->row(w, panels[r], begin, end, y + r * w.N);
        AddBias(bias, begin, end, y + r * w.N);
      }
    });
  }

  OrtStatus* MultiplyPanels(Context& context, const QuantWeight& w, const float* x, size_t rows, const Panels& panels,
                            const Tensor& bias, float* y) const {
    OrtStatus* status = context.For(panels.count(), rows * w.K, [&](size_t begin, size_t end) {
      for (size_t r = begin * kPanel; r < end * kPanel && r < rows; ++r) {
        loops->quantise(w, x + r * w.K, kPanel, r % kPanel, panels[r / kPanel]);
      }
    });
    if (status != nullptr) return status;
    return ForStrips(context, w, rows, [&](size_t begin, size_t end) {
      for (size_t n = begin; n < end; n += kStrip) {
        const size_t stop = n + kStrip < end ? n + kStrip : end;
        for (size_t p = 0; p < panels.count(); ++p) {
          const size_t first = p * kPanel, count = rows - first < kPanel ? rows - first : kPanel;
          loops->panel(w, panels[p], count, n, stop, y + first * w.N);
          for (size_t r = first; r < first + count; ++r) AddBias(bias, n, stop, y + r * w.N);
        }
      }
    });
  }

  // body(begin, end) over weight rows, in whole strips. A multiply-add here costs about a quarter of one in floating
  // point.
  template <class Body>
  static OrtStatus* ForStrips(Context& context, const QuantWeight& w, size_t rows, const Body& body) {
    return context.For((w.N + kStrip - 1) / kStrip, rows * w.N * w.K / 4, [&](size_t begin, size_t end) {
      const size_t stop = end * kStrip;
      body(begin * kStrip, stop < w.N ? stop : w.N);
    });
  }

  static void AddBias(const Tensor& bias, size_t begin, size_t end, float* y) {
    if (!bias) return;
    for (size_t n = begin; n < end; ++n) y[n] += bias.as<float>()[n];
  }
};

}  // namespace

// On x86-64 stock ONNX Runtime has fast kernels of its own for the op's body, and the body runs there, unless a test
// asks for these loops by setting EDGEADAPT_OPS_ISA.
bool QuantMatMulPays() {
#if defined(__x86_64__)
  const char* asked = std::getenv("EDGEADAPT_OPS_ISA");
  return asked != nullptr && *asked != '\0';
#else
  return true;
#endif
}

OrtCustomOp* MakeQuantMatMul(const OrtApi* api) { return MakeOp<QuantMatMul>(api); }

}  // namespace edgeadapt
