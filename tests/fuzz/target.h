// What a file that holds an op's target needs: EDGEADAPT_FUZZ(Name, source) { return a call that the op must accept; }
//
// The call is drawn from `source`: sizes from zero up (small: a finding does not need a big tensor), optional inputs
// there or not, every dtype, every attribute. The harness (fuzz.cc) fills the tensors, damages some calls and says what
// must hold. A new op is a new file here and nothing else.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "source.h"

namespace edgeadapt_fuzz {

constexpr ONNXTensorElementDataType kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType kHalf = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr ONNXTensorElementDataType kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
constexpr ONNXTensorElementDataType kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr ONNXTensorElementDataType kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;

struct Argument {
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
  int64_t below = 0;  // integers are drawn from [0, below); 0: all of them
  bool given = true;
};

struct Call {
  std::vector<Argument> inputs;
  std::vector<std::pair<std::string, int64_t>> integers = {};  // attributes
  std::vector<std::pair<std::string, float>> floats = {};
};

using Draw = Call (*)(Source&);

struct Target {
  const char* name;
  Draw draw;
  const Target* next;
};

extern const Target* g_targets;

struct AddTarget {
  Target target;
  AddTarget(const char* name, Draw draw) : target{name, draw, g_targets} { g_targets = &target; }
};

}  // namespace edgeadapt_fuzz

#define EDGEADAPT_FUZZ(name, source)                                      \
  static edgeadapt_fuzz::Call Draw##name(edgeadapt_fuzz::Source& source); \
  static const edgeadapt_fuzz::AddTarget g_add_##name(#name, Draw##name); \
  static edgeadapt_fuzz::Call Draw##name([[maybe_unused]] edgeadapt_fuzz::Source& source)
