// As much of ONNX Runtime as an op of this library may ask for, so that the very op code runs without it.
//
// A function of OrtApi that is not here stops the process: add it, as the op now needs it. Tensors are exactly as large
// as their shapes say; reading or writing past an end is seen by the address sanitizer, and where there is none by a
// page that cannot be touched behind each tensor.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace edgeadapt_fuzz {

[[noreturn]] void Finding(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Bytes of one element; 0 for types that have no fixed size.
size_t ElementSize(ONNXTensorElementDataType type);

// Memory of exactly `size` bytes, `shift` bytes after an aligned address.
class Exact {
 public:
  Exact(size_t size, size_t shift);
  ~Exact();
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* block_;
  size_t block_size_;
  uint8_t* data_;
  size_t size_;
};

}  // namespace edgeadapt_fuzz

struct OrtTensorTypeAndShapeInfo {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  std::vector<int64_t> shape;
  std::vector<std::string> names;  // of symbolic dimensions; may be empty
};

struct OrtValue {
  OrtTensorTypeAndShapeInfo info;
  std::shared_ptr<edgeadapt_fuzz::Exact> memory;  // null if the tensor is empty and owns none
};

struct OrtKernelInfo {
  std::vector<std::pair<std::string, int64_t>> integers;
  std::vector<std::pair<std::string, float>> floats;
  std::vector<std::string> inputs;         // their names; empty: left out
  std::vector<const OrtValue*> constants;  // by input; null: may change
};

struct OrtKernelContext {
  std::vector<OrtValue*> inputs;                        // null: an optional input that was left out
  std::vector<std::unique_ptr<OrtValue>> outputs;       // made when asked for
  std::vector<ONNXTensorElementDataType> output_types;  // as the op declares them
  int in_place = -1;                                    // the input whose memory output 0 takes, if it fits
  bool backwards = false;                               // the order in which the pieces of a ParallelFor run
  uint8_t fill = 0xA5;                                  // what a new output holds
};

struct OrtShapeInferContext {
  std::vector<OrtTensorTypeAndShapeInfo> inputs;
  const OrtKernelInfo* attributes = nullptr;
  std::vector<std::unique_ptr<OrtTensorTypeAndShapeInfo>> outputs;  // null: nothing was said
};

struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};

namespace edgeadapt_fuzz {

const OrtApi* Api();

// The ops that RegisterCustomOps adds, in its order.
const std::vector<const OrtCustomOp*>& Ops();

}  // namespace edgeadapt_fuzz
