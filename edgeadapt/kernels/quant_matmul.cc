// QuantMatMul: y = x W^T + bias, W in 4 or 8 bits as com.microsoft::MatMulNBits packs it.
//
//   x  float32 [..., K]      data  uint8 [N, nb, block bits / 8]      scales  float32 [N, nb]
//   zero_points  uint8 [N, ceil(nb bits / 8)], optional      bias  float32 [N], optional      y  float32 [..., N]
//
// The weights are read where they lie, usually in the mapped file: there is no second copy of them. One row of x
// (decoding) streams them once; many rows (a prompt) go through them in panels of kPanel, a strip of weight rows that
// fits into the first-level cache at a time.
#include <atomic>
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
  QuantWeight weight;  // its pointers are set if they are constants of the graph, as they should be
  bool constant;

  bool Select() {
    loops = SelectQuantLoops();
    return loops != nullptr;
  }

  OrtStatus* Load(const NodeInfo& node) {
    int64_t K, N, bits, block;
    if (OrtStatus* status = node.Get("K", 1, kMostColumns, &K)) return status;
    if (OrtStatus* status = node.Get("N", 1, int64_t{1} << 32, &N)) return status;
    if (OrtStatus* status = node.Get("bits", 4, 8, &bits)) return status;
    if (OrtStatus* status = node.Get("block_size", bits == 4 ? 32 : 16, kMostBlock, &block)) return status;
    if ((bits != 4 && bits != 8) || (block & (block - 1)) != 0) {
      return node.Invalid("bits is %d and block_size %lld; they must be 4 or 8, and a power of two",
                          static_cast<int>(bits), static_cast<long long>(block));
    }
    weight.K = static_cast<size_t>(K);
    weight.N = static_cast<size_t>(N);
    weight.block = static_cast<size_t>(block);
    weight.nb = (weight.K + weight.block - 1) / weight.block;
    weight.bits = static_cast<int>(bits);
    constant = true;
    Tensor inputs[kCount];
    for (size_t i = 1; i < kCount; ++i) {
      if (OrtStatus* status = node.Constant(i, kInputs[i], &inputs[i], &constant)) return status;
    }
    return constant ? SetWeight(node, inputs) : nullptr;
  }

  OrtStatus* Compute(Context& context) const {
    Tensor inputs[kCount];
    for (size_t i = 0; i < (constant ? 1 : kCount); ++i) {
      if (OrtStatus* status = context.Get(i, kInputs[i], &inputs[i])) return status;
    }
    QuantMatMul with = *this;
    if (!constant) {
      if (OrtStatus* status = with.SetWeight(context, inputs)) return status;
    }
    return with.Multiply(context, inputs[0]);
  }

 private:
  static constexpr size_t kCount = sizeof kInputs / sizeof(Input);

  // Takes all inputs but x, if they have the shapes that the attributes ask for.
  OrtStatus* SetWeight(const Checks& checks, const Tensor* inputs) {
    const auto number = [](size_t n) { return static_cast<int64_t>(n); };
    const size_t bits = static_cast<size_t>(weight.bits);
    const int64_t data[] = {number(weight.N), number(weight.nb), number(weight.block * bits / 8)};
    const int64_t zero_points[] = {number(weight.N), number((weight.nb * bits + 7) / 8)};
    const struct {
      size_t rank;
      const int64_t* shape;
    } expected[kCount] = {{0, nullptr}, {3, data}, {2, data}, {2, zero_points}, {1, data}};
    for (size_t i = 1; i < kCount; ++i) {
      if (!inputs[i]) continue;
      if (OrtStatus* status = checks.Expect(inputs[i], kInputs[i].name, expected[i].rank, expected[i].shape)) {
        return status;
      }
    }
    weight.data = inputs[1].as<uint8_t>();
    weight.scales = inputs[2].as<float>();
    weight.zero_points = inputs[3].as<uint8_t>();
    weight.bias = inputs[4].as<float>();
    return nullptr;
  }

  OrtStatus* Multiply(Context& context, const Tensor& x) const {
    const QuantWeight& w = weight;
    if (x.rank < 1 || x.dim(x.rank - 1) != w.K) {
      return context.Invalid("the last dimension of input 'x' must be K = %zu", w.K);
    }
    float* y = nullptr;
    if (OrtStatus* status = context.OutputOfWidth(x, w.N, &y)) return status;
    size_t rows = 1;
    for (size_t i = 0; i + 1 < x.rank; ++i) rows *= x.dim(i);
    if (rows == 0) return nullptr;
    const size_t at_once = rows < kPanel ? 1 : kPanel;  // a panel of three rows would cost as much as three single ones
    Panels panels(w, rows, at_once);
    if (!panels.ok()) return context.OutOfMemory();
    return at_once == 1 ? MultiplyRows(context, x.as<float>(), rows, panels, y)
                        : MultiplyPanels(context, x.as<float>(), rows, panels, y);
  }

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

  OrtStatus* MultiplyRows(Context& context, const float* x, size_t rows, const Panels& panels, float* y) const {
    const QuantWeight& w = weight;
    for (size_t r = 0; r < rows; ++r) loops->quantise(w, x + r * w.K, 1, 0, panels[r]);
    return ForStrips(context, rows, [&](size_t begin, size_t end) {
      for (size_t r = 0; r < rows; ++r) {
        loops->row(w, panels[r], begin, end, y + r * w.N);
      }
    });
  }

  // The weight from row n on.
  static QuantWeight From(QuantWeight w, size_t n) {
    w.data += n * (w.nb * w.block * static_cast<size_t>(w.bits) / 8);
    w.scales += n * w.nb;
    if (w.zero_points != nullptr) w.zero_points += n * ((w.nb * static_cast<size_t>(w.bits) + 7) / 8);
    if (w.bias != nullptr) w.bias += n;
    return w;
  }
  // The codes less 128, as signed bytes. `bytes` is a multiple of 16.
  static void Flip(const uint8_t* codes, size_t bytes, uint8_t* out) {
    typedef uint8_t Bytes64 __attribute__((vector_size(64), aligned(1), may_alias));
    size_t i = 0;
    for (; i + 64 <= bytes; i += 64) {
      *reinterpret_cast<Bytes64*>(out + i) = *reinterpret_cast<const Bytes64*>(codes + i) ^ 0x80;
    }
    for (; i < bytes; ++i) out[i] = codes[i] ^ 0x80;
  }

  OrtStatus* MultiplyPanels(Context& context, const float* x, size_t rows, const Panels& panels, float* y) const {
    const QuantWeight& w = weight;
    OrtStatus* status = context.For(panels.count(), rows * w.K, [&](size_t begin, size_t end) {
      for (size_t r = begin * kPanel; r < end * kPanel && r < rows; ++r) {
        loops->quantise(w, x + r * w.K, kPanel, r % kPanel, panels[r / kPanel]);
      }
    });
    if (status != nullptr) return status;
    const bool flips = loops->flipped && w.bits == 8;
    const size_t row_bytes = w.nb * w.block;
    std::atomic<bool> failed{false};
    status = ForStrips(context, rows, [&](size_t begin, size_t end) {
      Scratch<uint8_t> strip(flips ? kStrip * row_bytes : 1);
      if (!strip.ok()) {
        failed = true;
        return;
      }
      for (size_t n = begin; n < end; n += kStrip) {
        const size_t stop = n + kStrip < end ? n + kStrip : end;
        QuantWeight part = From(w, n);
        if (flips) {
          Flip(part.data, (stop - n) * row_bytes, strip.get());
          part.data = strip.get();
        }
        for (size_t p = 0; p < panels.count(); ++p) {
          const size_t first = p * kPanel, count = rows - first < kPanel ? rows - first : kPanel;
          loops->panel(part, panels[p], count, 0, stop - n, y + first * w.N + n);
        }
      }
    });
    return status != nullptr || !failed ? status : context.OutOfMemory();
  }

  // body(begin, end) over weight rows, in whole strips. A multiply-add here costs about a quarter of one in floating
  // point.
  template <class Body>
  OrtStatus* ForStrips(Context& context, size_t rows, const Body& body) const {
    const QuantWeight& w = weight;
    return context.For((w.N + kStrip - 1) / kStrip, rows * w.N * w.K / 4, [&](size_t begin, size_t end) {
      const size_t stop = end * kStrip;
      body(begin * kStrip, stop < w.N ? stop : w.N);
    });
  }
};

}  // namespace

OrtCustomOp* MakeQuantMatMul(const OrtApi* api) { return MakeOp<QuantMatMul>(api); }

}  // namespace edgeadapt
