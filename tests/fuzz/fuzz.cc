// One call of an op per string of bytes, on the very code that ships.
//
//     build/fuzz/edgeadapt_fuzz --op=RankOneUpdate -max_total_time=20      libFuzzer with the sanitizers (clang)
//     build/fuzz/edgeadapt_fuzz FINDING                                    that call again; without --op the bytes
//     choose
//
// What must hold, beside what the sanitizers see: a call that keeps the contract is accepted and any other one is
// refused with a message or computed; every output element is written, and no input; the same call gives the same
// numbers with its pieces of work in another order, and in place where the op allows that; the inferred shape is the
// computed one.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../../edgeadapt/kernels/cpu.h"
#include "runtime.h"
#include "target.h"

namespace edgeadapt_fuzz {

const Target* g_targets = nullptr;

namespace {

constexpr const char* kSets[] = {"scalar", "baseline", "avx2", "avx512", "avx512vnni", "dotprod"};
constexpr edgeadapt::Isa kIsas[] = {edgeadapt::Isa::kScalar, edgeadapt::Isa::kBaseline,   edgeadapt::Isa::kAvx2,
                                    edgeadapt::Isa::kAvx512, edgeadapt::Isa::kAvx512Vnni, edgeadapt::Isa::kDotProduct};

const char* g_only = nullptr;  // --op=NAME
const char* g_isa = nullptr;   // --isa=NAME

const Target* FindTarget(const char* name) {
  for (const Target* target = g_targets; target != nullptr; target = target->next) {
    if (std::strcmp(target->name, name) == 0) return target;
  }
  return nullptr;
}

// A random bit pattern, an ordinary number, or one of those that go wrong first.
float DrawFloat(Values& values, int mode) {
  const uint64_t word = values.Next();
  const float ordinary = static_cast<float>(static_cast<int32_t>(word)) * 0x1p-30f;
  if (mode == 0) return ordinary;
  if (mode == 1) {
    const auto bits = static_cast<uint32_t>(word);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-42f, 3.4e38f, -3.4e38f};
  return word >> 56 < 64 ? special[word >> 32 & 7] : ordinary;
}

uint16_t DrawHalf(Values& values, int mode) {
  const uint64_t word = values.Next();
  const auto ordinary = static_cast<uint16_t>((word & 0x83FF) | (10 + (word >> 16) % 8) << 10);
  if (mode == 0) return ordinary;
  if (mode == 1) return static_cast<uint16_t>(word);
  const uint16_t special[] = {0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x0001, 0x7BFF, 0xFBFF};
  return word >> 56 < 64 ? special[word >> 32 & 7] : ordinary;
}

void Fill(const Argument& argument, Source& source, uint8_t* data, size_t count) {
  const int mode = static_cast<int>(source.UpTo(3));
  const size_t size = ElementSize(argument.type);
  if (mode == 3 && argument.below == 0) {  // the fuzzer's own bytes, over and over
    uint8_t bytes[16];
    for (uint8_t& byte : bytes) byte = source.Byte();
    for (size_t i = 0; i < count * size; ++i) data[i] = bytes[i % sizeof bytes];
    return;
  }
  Values values(source.Word());
  for (size_t i = 0; i < count; ++i) {
    if (argument.type == kFloat) {
      const float value = DrawFloat(values, mode);
      std::memcpy(data + i * size, &value, size);
    } else if (argument.type == kHalf) {
      const uint16_t value = DrawHalf(values, mode);
      std::memcpy(data + i * size, &value, size);
    } else {
      uint64_t value = values.Next();
      if (argument.below > 0) value %= static_cast<uint64_t>(argument.below);
      std::memcpy(data + i * size, &value, size);  // little-endian, as every platform of the library
    }
  }
}

// Elements of a shape; false if that is more than a small tensor has.
bool Count(const std::vector<int64_t>& shape, size_t* count) {
  constexpr size_t kMost = size_t{1} << 20;
  *count = 1;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    *count = 0;
    return true;
  }
  for (const int64_t dim : shape) {
    if (static_cast<size_t>(dim) > kMost || (*count *= static_cast<size_t>(dim)) > kMost) return false;
  }
  return true;
}

// Makes one thing wrong, or merely other than drawn.
void Damage(Call& call, Source& source) {
  if (call.inputs.empty()) return;
  Argument& argument = call.inputs[static_cast<size_t>(source.UpTo(static_cast<int64_t>(call.inputs.size()) - 1))];
  const auto dim = [&]() -> int64_t* {
    if (argument.shape.empty()) return nullptr;
    return &argument.shape[static_cast<size_t>(source.UpTo(static_cast<int64_t>(argument.shape.size()) - 1))];
  };
  Values values(source.Byte());
  switch (source.UpTo(11)) {
    case 0:
      argument.given = false;
      break;
    case 1:
      call.inputs.pop_back();
      break;
    case 2:
      if (int64_t* size = dim()) *size += 1 + source.UpTo(3);
      break;
    case 3:
      if (int64_t* size = dim()) *size = std::max<int64_t>(0, *size - 1 - source.UpTo(3));
      break;
    case 4:
      if (int64_t* size = dim()) *size = source.UpTo(300);
      break;
    case 5:
      if (int64_t* size = dim()) *size = int64_t{1} << source.UpTo(62);
      break;
    case 6:
      argument.shape.push_back(source.UpTo(3));
      break;
    case 7:
      if (!argument.shape.empty()) argument.shape.pop_back();
      break;
    case 8: {
      constexpr ONNXTensorElementDataType types[] = {kFloat, kHalf,  kInt64,
                                                     kInt8,  kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE};
      argument.type = types[source.UpTo(5)];
      break;
    }
    case 9:
      argument.below = 0;  // any integer
      break;
    case 10:
      for (auto& [name, value] : call.floats) {
        value = DrawFloat(values, 2);
        if (source.OneIn(8)) name += '?';  // the attribute is missing
      }
      break;
    default:
      if (!call.integers.empty()) {
        auto& [name, value] =
            call.integers[static_cast<size_t>(source.UpTo(static_cast<int64_t>(call.integers.size()) - 1))];
        const int64_t other[] = {0,         -1,        value + 1, value - 1,
                                 2 * value, INT64_MAX, INT64_MIN, static_cast<int64_t>(source.Word())};
        value = other[source.UpTo(7)];
        if (source.OneIn(8)) name += '?';  // the attribute is missing
      }
  }
}

// Empties the call and then makes another of its sizes larger than memory, as an empty tensor's may be.
void Stretch(Call& call, Source& source) {
  const auto pick = [&]() -> int64_t {
    const auto& shape =
        call.inputs[static_cast<size_t>(source.UpTo(static_cast<int64_t>(call.inputs.size()) - 1))].shape;
    return shape.empty() ? 0 : shape[static_cast<size_t>(source.UpTo(static_cast<int64_t>(shape.size()) - 1))];
  };
  const int64_t none = pick(), many = pick(), large = int64_t{1} << (20 + source.UpTo(25));
  for (Argument& argument : call.inputs) {
    for (int64_t& size : argument.shape) size = size == none ? 0 : size == many ? large : size;
  }
}

struct Status {
  explicit Status(OrtStatus* raw) : status(raw) {}
  ~Status() { delete status; }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;
  explicit operator bool() const { return status != nullptr; }
  const char* what() const { return status->message.c_str(); }
  OrtStatus* status;
};

// Are these the same numbers, any NaN being equal to any other?
bool Same(const OrtValue& a, const OrtValue& b) {
  if (a.info.shape != b.info.shape || a.info.type != b.info.type) return false;
  const size_t size = a.memory != nullptr ? a.memory->size() : 0;
  if (size != (b.memory != nullptr ? b.memory->size() : 0)) return false;
  if (size == 0 || std::memcmp(a.memory->data(), b.memory->data(), size) == 0) return true;
  if (a.info.type != kFloat) return false;
  for (size_t at = 0; at < size; at += sizeof(float)) {
    float x, y;
    std::memcpy(&x, a.memory->data() + at, sizeof x);
    std::memcpy(&y, b.memory->data() + at, sizeof y);
    if (std::memcmp(&x, &y, sizeof x) != 0 && !(std::isnan(x) && std::isnan(y))) return false;
  }
  return true;
}

OrtStatus* Compute(const OrtCustomOp& op, void* kernel, std::vector<OrtValue>& values, const std::vector<bool>& given,
                   int in_place, bool backwards, uint8_t fill, OrtKernelContext& context) {
  for (size_t i = 0; i < values.size(); ++i) context.inputs.push_back(given[i] ? &values[i] : nullptr);
  const size_t outputs = op.GetOutputTypeCount(&op);
  context.outputs.resize(outputs);
  for (size_t i = 0; i < outputs; ++i) context.output_types.push_back(op.GetOutputType(&op, i));
  context.in_place = in_place;
  context.backwards = backwards;
  context.fill = fill;
  return op.KernelComputeV2(kernel, &context);
}

void CheckShapes(const OrtCustomOp& op, const Call& call, const OrtKernelInfo& node, const OrtKernelContext& computed) {
  if (op.InferOutputShapeFn == nullptr) return;
  OrtShapeInferContext infer;
  infer.attributes = &node;
  infer.outputs.resize(computed.outputs.size());
  for (const Argument& argument : call.inputs) infer.inputs.push_back({argument.type, argument.shape, {}});
  const Status status(op.InferOutputShapeFn(&op, &infer));
  if (status) Finding("the shape of a good call is refused: %s", status.what());
  for (size_t i = 0; i < infer.outputs.size(); ++i) {
    if (infer.outputs[i] != nullptr && infer.outputs[i]->shape != computed.outputs[i]->info.shape) {
      Finding("the inferred shape of output %zu is not the computed one", i);
    }
  }
}

void One(const OrtCustomOp& op, const Target& target, Source& source) {
  size_t set = static_cast<size_t>(source.UpTo(std::size(kSets) - 1));
  while (!edgeadapt::Has(kIsas[set])) --set;
  setenv("EDGEADAPT_OPS_ISA", g_isa != nullptr ? g_isa : kSets[set], 1);

  const uint8_t how = source.Byte();
  const bool damaged = how >= 160 && how < 224, stretched = how >= 224 && how < 240;
  const uint8_t constant = source.Byte();  // a bit for each input
  Call call = target.draw(source);
  if (damaged) Damage(call, source);
  if (stretched) Stretch(call, source);

  std::vector<OrtValue> values(call.inputs.size());
  std::vector<bool> given;
  bool small = true;
  for (size_t i = 0; small && i < values.size(); ++i) {
    const Argument& argument = call.inputs[i];
    size_t count = 0;
    small = Count(argument.shape, &count);
    given.push_back(argument.given);
    if (!small || !argument.given) continue;
    values[i].info = {argument.type, argument.shape, {}};
    if (count == 0) continue;
    const size_t size = ElementSize(argument.type);
    values[i].memory = std::make_shared<Exact>(count * size, size * static_cast<size_t>(source.UpTo(3)));
    Fill(argument, source, values[i].memory->data(), count);
  }
  if (!small) return;

  OrtKernelInfo node{call.integers, call.floats, {}, {}};
  for (size_t i = 0; i < values.size(); ++i) {
    node.inputs.emplace_back(given[i] ? "name" : "");
    node.constants.push_back(given[i] && (constant >> i % 8 & 1) != 0 ? &values[i] : nullptr);
  }
  void* kernel = nullptr;
  const Status refused(op.CreateKernelV2(&op, Api(), &node, &kernel));
  if (refused && !damaged && !stretched) Finding("a good node is refused: %s", refused.what());
  if (refused) return;

  std::vector<std::vector<uint8_t>> before;
  for (const OrtValue& value : values) {
    before.emplace_back();
    if (value.memory != nullptr)
      before.back().assign(value.memory->data(), value.memory->data() + value.memory->size());
  }
  OrtKernelContext first, second;
  const Status status(Compute(op, kernel, values, given, -1, false, 0xA5, first));
  if (status && !damaged && !stretched) Finding("a good call is refused: %s", status.what());
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].memory != nullptr && std::memcmp(before[i].data(), values[i].memory->data(), before[i].size()) != 0) {
      Finding("input %zu was written to", i);
    }
  }
  if (!status) {
    int in_place = -1;
    if (op.GetMayInplace != nullptr) {
      int *input = nullptr, *output = nullptr;
      if (op.GetMayInplace(&input, &output) > 0 && node.constants[static_cast<size_t>(*input)] == nullptr)
        in_place = *input;
      op.ReleaseMayInplace(input, output);
    }
    const Status again(Compute(op, kernel, values, given, in_place, true, 0x5A, second));
    if (again) Finding("the same call is refused the second time: %s", again.what());
    for (size_t i = 0; i < first.outputs.size(); ++i) {
      if (first.outputs[i] == nullptr || second.outputs[i] == nullptr) Finding("output %zu was not made", i);
      if (!Same(*first.outputs[i], *second.outputs[i])) {
        Finding("output %zu depends on the order of the work, on its place, or on what was there before", i);
      }
    }
    if (!damaged) CheckShapes(op, call, node, first);
  }
  op.KernelDestroy(kernel);
}

const char* Option(const char* argument, const char* name) {
  const size_t length = std::strlen(name);
  return std::strncmp(argument, name, length) == 0 ? argument + length : nullptr;
}

}  // namespace
}  // namespace edgeadapt_fuzz

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  using namespace edgeadapt_fuzz;
  for (int i = 1; i < *count; ++i) {
    if (const char* name = Option((*arguments)[i], "--op=")) g_only = name;
    if (const char* name = Option((*arguments)[i], "--isa=")) g_isa = name;
    if (std::strcmp((*arguments)[i], "--list") != 0) continue;
    for (const OrtCustomOp* op : Ops()) std::puts(op->GetName(op));
    std::exit(0);
  }
  bool known = g_only == nullptr;
  for (const OrtCustomOp* op : Ops()) {
    const char* name = op->GetName(op);
    known = known || std::strcmp(g_only, name) == 0;
    if (FindTarget(name) == nullptr) {
      std::fprintf(stderr, "fuzz: op %s has no target: write tests/fuzz/<op>.cc\n", name);
      std::exit(2);
    }
  }
  if (!known) {
    std::fprintf(stderr, "fuzz: no op is named %s\n", g_only);
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace edgeadapt_fuzz;
  Source source(data, size);
  const auto& ops = Ops();
  size_t chosen = source.Byte() % ops.size();
  for (size_t i = 0; g_only != nullptr && i < ops.size(); ++i) {
    if (std::strcmp(ops[i]->GetName(ops[i]), g_only) == 0) chosen = i;
  }
  One(*ops[chosen], *FindTarget(ops[chosen]->GetName(ops[chosen])), source);
  return 0;
}
