// A thin layer over ONNX Runtime's C API for the ops of this library.
//
// Nothing here throws: the library is compiled without exceptions, and every failure travels as an OrtStatus that says
// which input is wrong and what would be right. A kernel is a plain struct
//
//     struct Kernel {
//       static constexpr const char* kName = "RankOneUpdate";
//       static constexpr Input kInputs[] = {{"x", kFloat}, {"b", kFloat, kOptional}};
//       static constexpr int kInPlace = 0;             // the input whose buffer the output may reuse, or -1
//       bool Select();                                 // choose the loops for this processor (cpu.h)
//       OrtStatus* Load(const NodeInfo&);              // optional: read the node's attributes and constants
//       static constexpr const char* kWidth = "N";     // optional: the attribute that is the output's last dimension
//       static constexpr size_t kOutputs = 2;          // optional: more than one
//       static constexpr int64_t kLastWidth = 2;       // optional: the last dimension of the last of several
//       static constexpr ONNXTensorElementDataType kOutputTypes[] = {kInt64, kFloat};    // optional: not all are float
//       OrtStatus* Compute(Context& context) const;    // outputs shaped like input 0 (but for kWidth)
//     };
//
// and Op<Kernel> makes the OrtCustomOp of it.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace edgeadapt {

constexpr ONNXTensorElementDataType kAny = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
constexpr ONNXTensorElementDataType kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType kHalf = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr ONNXTensorElementDataType kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
constexpr ONNXTensorElementDataType kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr ONNXTensorElementDataType kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;

constexpr bool kOptional = true;

struct Input {
  const char* name;
  ONNXTensorElementDataType type;
  bool optional = false;
};

// An input as the kernel sees it. `data` is null exactly if an optional input was left out.
struct Tensor {
  static constexpr size_t kMaxRank = 8;

  const void* data = nullptr;
  ONNXTensorElementDataType type = kAny;
  size_t rank = 0;
  int64_t shape[kMaxRank] = {};

  explicit operator bool() const { return data != nullptr; }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  size_t dim(size_t i) const { return static_cast<size_t>(shape[i]); }
  size_t size() const {  // ONNX Runtime has checked that this product fits
    size_t n = 1;
    for (size_t i = 0; i < rank; ++i) n *= dim(i);
    return n;
  }
};

// What a message needs, and what is checked with one: the runtime's API and the op's name.
class Checks {
 public:
  Checks(const OrtApi& api, const char* op) : api_(api), op_(op) {}

  // "<op>: <message>", formatted as printf does.
  OrtStatus* Invalid(const char* format, ...) const __attribute__((format(printf, 2, 3))) {
    char message[320];
    const int used = std::snprintf(message, sizeof message, "%s: ", op_);
    va_list args;
    va_start(args, format);
    if (used > 0 && static_cast<size_t>(used) < sizeof message) {
      std::vsnprintf(message + used, sizeof message - static_cast<size_t>(used), format, args);
    }
    va_end(args);
    return api_.CreateStatus(ORT_INVALID_ARGUMENT, message);
  }

  OrtStatus* OutOfMemory() const { return api_.CreateStatus(ORT_FAIL, "edgeadapt: out of memory"); }

  // Refuses a tensor whose rank or dimensions are not these; -1 accepts any size.
  OrtStatus* Expect(const Tensor& tensor, const char* name, size_t rank, const int64_t* shape) const {
    bool right = tensor.rank == rank;
    for (size_t i = 0; right && i < rank; ++i) right = shape[i] < 0 || shape[i] == tensor.shape[i];
    if (right) return nullptr;
    char is[96], should[96];
    return Invalid("input '%s' has shape %s, expected %s", name, Print(tensor.shape, tensor.rank, is, sizeof is),
                   Print(shape, rank, should, sizeof should));
  }

 protected:
  // The tensor in `value`, its element type checked against `input.type` unless that is kAny.
  OrtStatus* Read(const OrtValue* value, const Input& input, Tensor* tensor) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    if (OrtStatus* status = api_.GetTensorTypeAndShape(value, &info)) return status;
    OrtStatus* status = Describe(info, input, tensor);
    api_.ReleaseTensorTypeAndShapeInfo(info);
    if (status != nullptr) return status;
    // The C API has no const accessor before 1.22; the buffer is only read.
    void* data = nullptr;
    status = api_.GetTensorMutableData(const_cast<OrtValue*>(value), &data);
    if (status != nullptr) return status;
    static const char empty = 0;  // an empty tensor is there, though it owns no memory
    tensor->data = data != nullptr ? data : &empty;
    return nullptr;
  }

  const OrtApi& api_;

 private:
  OrtStatus* Describe(const OrtTensorTypeAndShapeInfo* info, const Input& input, Tensor* tensor) const {
    if (OrtStatus* status = api_.GetTensorElementType(info, &tensor->type)) return status;
    if (input.type != kAny && tensor->type != input.type) {
      return Invalid("input '%s' has element type %d, expected %d (onnx.TensorProto numbering)", input.name,
                     static_cast<int>(tensor->type), static_cast<int>(input.type));
    }
    if (OrtStatus* status = api_.GetDimensionsCount(info, &tensor->rank)) return status;
    if (tensor->rank > Tensor::kMaxRank) {
      return Invalid("input '%s' has rank %zu; %zu is the most", input.name, tensor->rank, Tensor::kMaxRank);
    }
    return api_.GetDimensions(info, tensor->shape, tensor->rank);
  }

  static const char* Print(const int64_t* shape, size_t rank, char* text, size_t room) {
    size_t used = 0;
    const auto put = [&](const char* format, long long value) {
      const int n = std::snprintf(text + used, room - used, format, value);
      if (n > 0) used = used + static_cast<size_t>(n) < room ? used + static_cast<size_t>(n) : room - 1;
    };
    put("[", 0);
    for (size_t i = 0; i < rank; ++i) {
      if (i > 0) put(",", 0);
      if (shape[i] < 0) {
        put("*", 0);
      } else {
        put("%lld", static_cast<long long>(shape[i]));
      }
    }
    put("]", 0);
    return text;
  }

  const char* op_;
};

// What one Compute call may do: read inputs, make the outputs, split work over the runtime's own threads.
class Context : public Checks {
 public:
  Context(const OrtApi& api, OrtKernelContext* context, const char* op) : Checks(api, op), context_(context) {}

  // Input `index`; without data if it is optional and left out.
  OrtStatus* Get(size_t index, const Input& input, Tensor* tensor) const {
    *tensor = Tensor{};
    size_t count = 0;
    if (OrtStatus* status = api_.KernelContext_GetInputCount(context_, &count)) return status;
    const OrtValue* value = nullptr;
    if (index < count) {
      if (OrtStatus* status = api_.KernelContext_GetInput(context_, index, &value)) return status;
    }
    if (value == nullptr) return input.optional ? nullptr : Invalid("input '%s' is missing", input.name);
    return Read(value, input, tensor);
  }

  // The output, shaped like a tensor, or with another last dimension.
  OrtStatus* Output(const Tensor& like, float** data, size_t index = 0) const {
    return Output(index, like.shape, like.rank, data);
  }
  template <class T>
  OrtStatus* OutputOfWidth(const Tensor& like, size_t width, T** data, size_t index = 0) const {
    int64_t shape[Tensor::kMaxRank];
    for (size_t i = 0; i < like.rank; ++i) shape[i] = like.shape[i];
    shape[like.rank - 1] = static_cast<int64_t>(width);
    return Output(index, shape, like.rank, data);
  }

  // body(begin, end) over pieces of [0, total); in parallel if `work` (multiply-adds of the whole) is worth it.
  template <class Body>
  OrtStatus* For(size_t total, size_t work, const Body& body) const {
    constexpr size_t kPieceWork = size_t{1} << 15;  // about 10 us: well above the cost of waking a thread
    constexpr size_t kMostPieces = 64;
    size_t pieces = work / kPieceWork;
    if (pieces > kMostPieces) pieces = kMostPieces;
    if (pieces > total) pieces = total;
    if (pieces < 2) {
      body(size_t{0}, total);
      return nullptr;
    }
    struct Split {
      const Body& body;
      size_t total, pieces;
    } split{body, total, pieces};
    const auto call = [](void* data, size_t piece) {
      const Split& s = *static_cast<const Split*>(data);
      s.body(s.total * piece / s.pieces, s.total * (piece + 1) / s.pieces);
    };
    return api_.KernelContext_ParallelFor(context_, call, pieces, 0, &split);
  }

 private:
  template <class T>
  OrtStatus* Output(size_t index, const int64_t* shape, size_t rank, T** data) const {
    OrtValue* value = nullptr;
    if (OrtStatus* status = api_.KernelContext_GetOutput(context_, index, shape, rank, &value)) return status;
    void* raw = nullptr;
    if (OrtStatus* status = api_.GetTensorMutableData(value, &raw)) return status;
    *data = static_cast<T*>(raw);
    return nullptr;
  }

  OrtKernelContext* context_;
};

// A node as its kernel sees it when it is made: attributes, and inputs that never change.
class NodeInfo : public Checks {
 public:
  NodeInfo(const OrtApi& api, const OrtKernelInfo* info, const char* op) : Checks(api, op), info_(info) {}

  // The integer attribute `name`; an error if it is missing or outside [least, most].
  OrtStatus* Get(const char* name, int64_t least, int64_t most, int64_t* value) const {
    if (OrtStatus* status = api_.KernelInfoGetAttribute_int64(info_, name, value)) return status;
    if (*value >= least && *value <= most) return nullptr;
    return Invalid("attribute '%s' is %lld; it must be in %lld..%lld", name, static_cast<long long>(*value),
                   static_cast<long long>(least), static_cast<long long>(most));
  }
  OrtStatus* Get(const char* name, float* value) const { return api_.KernelInfoGetAttribute_float(info_, name, value); }

  // Input `index` if it is a constant, which stays where it is as long as the kernel. `*known` becomes false if it is
  // there but may change; an optional input that is left out is known to be absent.
  OrtStatus* Constant(size_t index, const Input& input, Tensor* tensor, bool* known) const {
    *tensor = Tensor{};
    size_t count = 0, length = 0;
    if (OrtStatus* status = api_.KernelInfo_GetInputCount(info_, &count)) return status;
    if (index < count) {
      if (OrtStatus* status = api_.KernelInfo_GetInputName(info_, index, nullptr, &length)) return status;
    }
    if (length < 2) return input.optional ? nullptr : Invalid("input '%s' is missing", input.name);  // "" and its end
    int constant = 0;
    const OrtValue* value = nullptr;
    if (OrtStatus* status = api_.KernelInfoGetConstantInput_tensor(info_, index, &constant, &value)) return status;
    if (constant != 0 && value != nullptr) return Read(value, input, tensor);
    *known = false;
    return nullptr;
  }

 private:
  const OrtKernelInfo* info_;
};

// An object on the C heap, or null. operator new would bring libstdc++'s exception machinery, and with it a newer
// glibc.
template <class T, class... Args>
T* Make(Args&&... args) {
  void* memory = std::malloc(sizeof(T));
  return memory != nullptr ? new (memory) T{static_cast<Args&&>(args)...} : nullptr;
}

// Scratch that lives for one Compute call; `ok()` is false when there was no memory.
template <class T>
class Scratch {
 public:
  explicit Scratch(size_t count) : data_(static_cast<T*>(std::malloc(count * sizeof(T)))) {}
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  bool ok() const { return data_ != nullptr; }
  T* get() const { return data_; }

 private:
  T* data_;
};

template <class Kernel>
struct Op : OrtCustomOp {
  struct State {
    const OrtApi* api;
    Kernel kernel;
  };

  Op() : OrtCustomOp{} {
    version = ORT_API_VERSION;
    GetName = [](const OrtCustomOp*) { return Kernel::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const OrtCustomOp*) { return sizeof(Kernel::kInputs) / sizeof(Input); };
    GetInputType = [](const OrtCustomOp*, size_t i) { return Kernel::kInputs[i].type; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t i) {
      return Kernel::kInputs[i].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Outputs<Kernel>(0); };
    GetOutputType = [](const OrtCustomOp*, size_t i) { return OutputType<Kernel>(i, 0); };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** made) -> OrtStatusPtr {
      Kernel kernel{};
      if (!kernel.Select()) {
        return api->CreateStatus(ORT_INVALID_ARGUMENT,
                                 "EDGEADAPT_OPS_ISA names an instruction set that this processor or build lacks; "
                                 "unset it to let the library choose");
      }
      if (OrtStatus* status = Load(&kernel, NodeInfo(*api, info, Kernel::kName), 0)) return status;
      *made = Make<State>(api, kernel);
      return *made != nullptr ? nullptr : api->CreateStatus(ORT_FAIL, "edgeadapt: out of memory");
    };
    KernelComputeV2 = [](void* state, OrtKernelContext* raw) -> OrtStatusPtr {
      const State& self = *static_cast<const State*>(state);
      Context context(*self.api, raw, Kernel::kName);
      return self.kernel.Compute(context);
    };
    KernelDestroy = [](void* state) { std::free(state); };  // State is trivially destructible
    GetMayInplace = [](int** input, int** output) -> size_t {
      if (Kernel::kInPlace < 0) return 0;
      *input = static_cast<int*>(std::malloc(sizeof(int)));
      *output = static_cast<int*>(std::malloc(sizeof(int)));
      if (*input == nullptr || *output == nullptr) {
        std::free(*input);
        std::free(*output);
        *input = *output = nullptr;
        return 0;
      }
      **input = Kernel::kInPlace;
      **output = 0;
      return 1;
    };
    ReleaseMayInplace = [](int* input, int* output) {
      std::free(input);
      std::free(output);
    };
  }

  // Every output of this library's ops is shaped like the first input, but for the last dimension where the kernel says
  // so. Inference needs an OrtApi, and InferOutputShapeFn is handed none: the registration knows it.
  void InferShapesWith(const OrtApi* api) {
    api_ = api;
    InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) -> OrtStatusPtr {
      const OrtApi& ort = *static_cast<const Op*>(op)->api_;
      OrtTensorTypeAndShapeInfo* info = nullptr;
      if (OrtStatus* status = ort.ShapeInferContext_GetInputTypeShape(context, 0, &info)) return status;
      // An input of unknown rank looks like a scalar here, and a dimension without a value or a name would be passed on
      // as the number -1. Then nothing is said about the output.
      size_t rank = 0;
      if (OrtStatus* status = ort.GetDimensionsCount(info, &rank)) return status;
      if (rank == 0 || rank > Tensor::kMaxRank) return nullptr;
      int64_t shape[Tensor::kMaxRank];
      const char* names[Tensor::kMaxRank] = {};
      if (OrtStatus* status = ort.GetDimensions(info, shape, rank)) return status;
      if (OrtStatus* status = ort.GetSymbolicDimensions(info, names, rank)) return status;
      if (OrtStatus* status = Width(ort, context, &shape[rank - 1], 0)) return status;
      for (size_t i = 0; i < rank; ++i) {
        if (shape[i] < 0 && (names[i] == nullptr || *names[i] == '\0')) return nullptr;
      }
      OrtTensorTypeAndShapeInfo* output = nullptr;
      if (OrtStatus* status = ort.CreateTensorTypeAndShapeInfo(&output)) return status;
      OrtStatus* status = nullptr;
      for (size_t i = 0; status == nullptr && i < Outputs<Kernel>(0); ++i) {
        if (i > 0 && i + 1 == Outputs<Kernel>(0)) SetLastWidth<Kernel>(&shape[rank - 1], &names[rank - 1], 0);
        status = ort.SetDimensions(output, shape, rank);
        if (status == nullptr) status = ort.SetSymbolicDimensions(output, names, rank);
        if (status == nullptr) status = ort.SetTensorElementType(output, OutputType<Kernel>(i, 0));
        if (status == nullptr) status = ort.ShapeInferContext_SetOutputTypeShape(context, i, output);
      }
      ort.ReleaseTensorTypeAndShapeInfo(output);
      return status;
    };
  }

 private:
  // What a kernel may leave out; the second of each pair is chosen for one that did.
  template <class K>
  static size_t Outputs(decltype(K::kOutputs, 0)) {
    return K::kOutputs;
  }
  template <class K>
  static size_t Outputs(long) {
    return 1;
  }
  template <class K>
  static ONNXTensorElementDataType OutputType(size_t i, decltype(K::kOutputTypes[0], 0)) {
    return K::kOutputTypes[i];
  }
  template <class K>
  static ONNXTensorElementDataType OutputType(size_t, long) {
    return kFloat;
  }
  template <class K>
  static auto Load(K* kernel, const NodeInfo& node, int) -> decltype(kernel->Load(node)) {
    return kernel->Load(node);
  }
  template <class K>
  static OrtStatus* Load(K*, const NodeInfo&, long) {
    return nullptr;
  }
  template <class K>
  static void SetLastWidth(int64_t* width, const char** name, decltype(K::kLastWidth, 0)) {
    *width = K::kLastWidth;
    *name = "";
  }
  template <class K>
  static void SetLastWidth(int64_t*, const char**, long) {}
  template <class K = Kernel>
  static OrtStatus* Width(const OrtApi& ort, const OrtShapeInferContext* context, int64_t* width,
                          decltype(K::kWidth, 0)) {
    const OrtOpAttr* attribute = nullptr;
    if (OrtStatus* status = ort.ShapeInferContext_GetAttribute(context, K::kWidth, &attribute)) return status;
    size_t size = 0;
    return ort.ReadOpAttr(attribute, ORT_OP_ATTR_INT, width, sizeof *width, &size);
  }
  template <class K = Kernel>
  static OrtStatus* Width(const OrtApi&, const OrtShapeInferContext*, int64_t*, long) {
    return nullptr;
  }

  const OrtApi* api_ = nullptr;
};

}  // namespace edgeadapt
