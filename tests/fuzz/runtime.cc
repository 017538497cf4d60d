#include "runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EDGEADAPT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EDGEADAPT_ASAN 1
#endif

extern "C" OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

namespace edgeadapt_fuzz {

void Finding(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::fputs("finding: ", stderr);
  std::vfprintf(stderr, format, args);
  std::fputc('\n', stderr);
  va_end(args);
  std::abort();
}

size_t ElementSize(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
      return 1;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return 8;
    default:
      return 0;
  }
}

#if defined(EDGEADAPT_ASAN)
Exact::Exact(size_t size, size_t shift) : block_size_(size + shift), size_(size) {
  block_ = std::malloc(block_size_);
  if (block_ == nullptr) std::abort();
  data_ = static_cast<uint8_t*>(block_) + shift;
}

Exact::~Exact() { std::free(block_); }
#else
// The tensor ends where a page begins that cannot be touched.
Exact::Exact(size_t size, size_t) : size_(size) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t pages = (size + page - 1) / page * page;
  block_size_ = pages + page;
  block_ = mmap(nullptr, block_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block_ == MAP_FAILED || mprotect(static_cast<uint8_t*>(block_) + pages, page, PROT_NONE) != 0) std::abort();
  data_ = static_cast<uint8_t*>(block_) + pages - size;
}

Exact::~Exact() { munmap(block_, block_size_); }
#endif

namespace {

constexpr size_t kMostBytes = size_t{1} << 24;  // of one output

// Never destroyed: ops live as long as the process.
auto& g_ops = *new std::vector<const OrtCustomOp*>;

OrtStatus* Fail(const char* message) { return new OrtStatus{ORT_FAIL, message}; }

template <class Pairs, class Value>
OrtStatus* Attribute(const Pairs& pairs, const char* name, Value* out) {
  for (const auto& [key, value] : pairs) {
    if (key == name) {
      *out = value;
      return nullptr;
    }
  }
  return Fail("no such attribute");
}

OrtStatus* GetOutput(OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank, OrtValue** out) {
  if (index >= context->outputs.size())
    Finding("output %zu is asked for; there are %zu", index, context->outputs.size());
  std::unique_ptr<OrtValue>& value = context->outputs[index];
  if (value == nullptr) {
    value = std::make_unique<OrtValue>();
    value->info.type = context->output_types[index];
    value->info.shape.assign(shape, shape + rank);
    size_t bytes = ElementSize(value->info.type);
    for (const int64_t dim : value->info.shape) {
      if (dim < 0) Finding("an output with a negative dimension");
      if (__builtin_mul_overflow(bytes, static_cast<size_t>(dim), &bytes)) {
        bytes =
            std::find(value->info.shape.begin(), value->info.shape.end(), 0) != value->info.shape.end() ? 0 : SIZE_MAX;
        break;
      }
    }
    if (bytes > kMostBytes) {
      value.reset();
      return Fail("out of memory");
    }
    const int from = index == 0 ? context->in_place : -1;
    const OrtValue* shared = from >= 0 ? context->inputs[static_cast<size_t>(from)] : nullptr;
    if (shared != nullptr && shared->info.type == value->info.type && shared->info.shape == value->info.shape) {
      value->memory = shared->memory;
    } else if (bytes > 0) {
      value->memory = std::make_shared<Exact>(bytes, 0);
      std::memset(value->memory->data(), context->fill, bytes);
    }
  }
  *out = value.get();
  return nullptr;
}

OrtStatus* ParallelFor(const OrtKernelContext* context, void (*body)(void*, size_t), size_t total, size_t, void* data) {
  for (size_t i = 0; i < total; ++i) body(data, context->backwards ? total - 1 - i : i);
  return nullptr;
}

OrtApi MakeApi() {
  OrtApi api;
  void (*const missing)() = [] {
    Finding("an op asks for a function of OrtApi that tests/fuzz/runtime.cc does not have");
  };
  static_assert(sizeof api % sizeof missing == 0, "OrtApi is a list of functions");
  for (size_t i = 0; i < sizeof api; i += sizeof missing) {
    std::memcpy(reinterpret_cast<char*>(&api) + i, &missing, sizeof missing);
  }

  api.CreateStatus = [](OrtErrorCode code, const char* message) NO_EXCEPTION -> OrtStatus* {
    if (*message == '\0') Finding("a status without a message");
    return new OrtStatus{code, message};
  };
  api.GetErrorCode = [](const OrtStatus* status) NO_EXCEPTION { return status->code; };
  api.GetErrorMessage = [](const OrtStatus* status) NO_EXCEPTION { return status->message.c_str(); };
  api.ReleaseStatus = [](OrtStatus* status) NO_EXCEPTION { delete status; };

  api.CreateCustomOpDomain = [](const char*, OrtCustomOpDomain** out) NO_EXCEPTION -> OrtStatus* {
    *out = reinterpret_cast<OrtCustomOpDomain*>(&g_ops);
    return nullptr;
  };
  api.CustomOpDomain_Add = [](OrtCustomOpDomain*, const OrtCustomOp* op) NO_EXCEPTION -> OrtStatus* {
    g_ops.push_back(op);
    return nullptr;
  };
  api.AddCustomOpDomain = [](OrtSessionOptions*, OrtCustomOpDomain*) NO_EXCEPTION -> OrtStatus* { return nullptr; };

  api.KernelInfoGetAttribute_int64 = [](const OrtKernelInfo* info, const char* name, int64_t* out)
                                         NO_EXCEPTION { return Attribute(info->integers, name, out); };
  api.KernelInfoGetAttribute_float = [](const OrtKernelInfo* info, const char* name, float* out)
                                         NO_EXCEPTION { return Attribute(info->floats, name, out); };

  api.KernelInfo_GetInputCount = [](const OrtKernelInfo* info, size_t* out) NO_EXCEPTION -> OrtStatus* {
    *out = info->inputs.size();
    return nullptr;
  };
  api.KernelInfo_GetInputName = [](const OrtKernelInfo* info, size_t index, char* out, size_t* size)
                                    NO_EXCEPTION -> OrtStatus* {
    if (index >= info->inputs.size()) return Fail("no such input");
    const std::string& name = info->inputs[index];
    const size_t room = *size;
    *size = name.size() + 1;
    if (out == nullptr) return nullptr;
    if (room < *size) return Fail("no room");
    std::memcpy(out, name.c_str(), *size);
    return nullptr;
  };
  api.KernelInfoGetConstantInput_tensor = [](const OrtKernelInfo* info, size_t index, int* constant,
                                             const OrtValue** out) NO_EXCEPTION -> OrtStatus* {
    if (index >= info->constants.size()) return Fail("no such input");
    *out = info->constants[index];
    *constant = *out != nullptr;
    return nullptr;
  };

  api.KernelContext_GetInputCount = [](const OrtKernelContext* context, size_t* out) NO_EXCEPTION -> OrtStatus* {
    *out = context->inputs.size();
    return nullptr;
  };
  api.KernelContext_GetOutputCount = [](const OrtKernelContext* context, size_t* out) NO_EXCEPTION -> OrtStatus* {
    *out = context->outputs.size();
    return nullptr;
  };
  api.KernelContext_GetInput = [](const OrtKernelContext* context, size_t index, const OrtValue** out)
                                   NO_EXCEPTION -> OrtStatus* {
    if (index >= context->inputs.size())
      Finding("input %zu is asked for; there are %zu", index, context->inputs.size());
    *out = context->inputs[index];
    return nullptr;
  };
  api.KernelContext_GetOutput = [](OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank,
                                   OrtValue** out) NO_EXCEPTION { return GetOutput(context, index, shape, rank, out); };
  api.KernelContext_ParallelFor =
      [](const OrtKernelContext* context, void (*body)(void*, size_t), size_t total, size_t batches, void* data)
          NO_EXCEPTION { return ParallelFor(context, body, total, batches, data); };

  api.GetTensorTypeAndShape = [](const OrtValue* value, OrtTensorTypeAndShapeInfo** out) NO_EXCEPTION -> OrtStatus* {
    *out = new OrtTensorTypeAndShapeInfo(value->info);
    return nullptr;
  };
  api.ReleaseTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo* info) NO_EXCEPTION { delete info; };
  api.GetTensorElementType = [](const OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType* out)
                                 NO_EXCEPTION -> OrtStatus* {
    *out = info->type;
    return nullptr;
  };
  api.GetDimensionsCount = [](const OrtTensorTypeAndShapeInfo* info, size_t* out) NO_EXCEPTION -> OrtStatus* {
    *out = info->shape.size();
    return nullptr;
  };
  api.GetDimensions = [](const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t room) NO_EXCEPTION -> OrtStatus* {
    if (room > info->shape.size()) Finding("%zu dimensions are asked for; there are %zu", room, info->shape.size());
    for (size_t i = 0; i < room; ++i) out[i] = info->shape[i];
    return nullptr;
  };
  api.GetSymbolicDimensions = [](const OrtTensorTypeAndShapeInfo* info, const char** out, size_t room)
                                  NO_EXCEPTION -> OrtStatus* {
    if (room > info->shape.size()) Finding("%zu names are asked for; there are %zu", room, info->shape.size());
    for (size_t i = 0; i < room; ++i) out[i] = i < info->names.size() ? info->names[i].c_str() : "";
    return nullptr;
  };
  api.GetTensorShapeElementCount = [](const OrtTensorTypeAndShapeInfo* info, size_t* out) NO_EXCEPTION -> OrtStatus* {
    *out = 1;
    for (const int64_t dim : info->shape) *out *= static_cast<size_t>(dim);
    return nullptr;
  };
  api.GetTensorMutableData = [](OrtValue* value, void** out) NO_EXCEPTION -> OrtStatus* {
    *out = value->memory != nullptr ? value->memory->data() : nullptr;
    return nullptr;
  };

  api.CreateTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo** out) NO_EXCEPTION -> OrtStatus* {
    *out = new OrtTensorTypeAndShapeInfo;
    return nullptr;
  };
  api.SetTensorElementType = [](OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType type)
                                 NO_EXCEPTION -> OrtStatus* {
    info->type = type;
    return nullptr;
  };
  api.SetDimensions = [](OrtTensorTypeAndShapeInfo* info, const int64_t* shape, size_t rank)
                          NO_EXCEPTION -> OrtStatus* {
    info->shape.assign(shape, shape + rank);
    return nullptr;
  };
  api.SetSymbolicDimensions = [](OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank)
                                  NO_EXCEPTION -> OrtStatus* {
    info->names.assign(names, names + rank);
    return nullptr;
  };

  api.ShapeInferContext_GetAttribute = [](const OrtShapeInferContext* context, const char* name, const OrtOpAttr** out)
                                           NO_EXCEPTION -> OrtStatus* {
    for (const auto& pair : context->attributes->integers) {
      if (pair.first != name) continue;
      *out = reinterpret_cast<const OrtOpAttr*>(&pair.second);
      return nullptr;
    }
    return Fail("no such attribute");
  };
  api.ReadOpAttr = [](const OrtOpAttr* attribute, OrtOpAttrType type, void* data, size_t room, size_t* out)
                       NO_EXCEPTION -> OrtStatus* {
    if (type != ORT_OP_ATTR_INT) return Fail("this attribute is an integer");
    *out = sizeof(int64_t);
    if (room < sizeof(int64_t)) return Fail("no room");
    std::memcpy(data, attribute, sizeof(int64_t));
    return nullptr;
  };
  api.ShapeInferContext_GetInputCount = [](const OrtShapeInferContext* context, size_t* out)
                                            NO_EXCEPTION -> OrtStatus* {
    *out = context->inputs.size();
    return nullptr;
  };
  api.ShapeInferContext_GetInputTypeShape = [](const OrtShapeInferContext* context, size_t index,
                                               OrtTensorTypeAndShapeInfo** out) NO_EXCEPTION -> OrtStatus* {
    if (index >= context->inputs.size()) return Fail("no such input");
    *out = const_cast<OrtTensorTypeAndShapeInfo*>(&context->inputs[index]);  // the context's, as in ONNX Runtime
    return nullptr;
  };
  api.ShapeInferContext_SetOutputTypeShape = [](const OrtShapeInferContext* context, size_t index,
                                                const OrtTensorTypeAndShapeInfo* info) NO_EXCEPTION -> OrtStatus* {
    const auto& outputs = context->outputs;
    if (index >= outputs.size()) Finding("the shape of output %zu; there are %zu", index, outputs.size());
    const_cast<OrtShapeInferContext*>(context)->outputs[index] = std::make_unique<OrtTensorTypeAndShapeInfo>(*info);
    return nullptr;
  };
  return api;
}

}  // namespace

const OrtApi* Api() {
  static const OrtApi api = MakeApi();
  return &api;
}

const std::vector<const OrtCustomOp*>& Ops() {
  if (g_ops.empty()) {
    setenv("EDGEADAPT_OPS_ISA", "best", 1);  // those too that do not pay on this processor
    static const OrtApiBase base{[](uint32_t) NO_EXCEPTION { return Api(); },
                                 []() NO_EXCEPTION -> const char* { return "1.99.0"; }};
    if (OrtStatus* status = RegisterCustomOps(nullptr, &base)) Finding("no registration: %s", status->message.c_str());
  }
  return g_ops;
}

}  // namespace edgeadapt_fuzz
