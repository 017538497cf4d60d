// The fuzzer's bytes, read as decisions. When they run out every decision is 0, so that any string of bytes means
// something.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgeadapt_fuzz {

class Source {
 public:
  Source(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

  uint8_t Byte() { return data_ < end_ ? *data_++ : uint8_t{0}; }

  // 0 ... most, both included; most < 65536.
  int64_t UpTo(int64_t most) {
    const unsigned low = Byte();
    const unsigned value = most < 256 ? low : low | static_cast<unsigned>(Byte()) << 8;
    return static_cast<int64_t>(value % (static_cast<unsigned>(most) + 1));
  }

  // True for one value in n of the next byte; n <= 256.
  bool OneIn(int n) { return Byte() >= 256 - 256 / n; }

  uint64_t Word() {
    uint64_t word = 0;
    for (int i = 0; i < 8; ++i) word = word << 8 | Byte();
    return word;
  }

 private:
  const uint8_t* data_;
  const uint8_t* end_;
};

// splitmix64: many values out of few bytes.
class Values {
 public:
  explicit Values(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }

 private:
  uint64_t state_;
};

}  // namespace edgeadapt_fuzz
