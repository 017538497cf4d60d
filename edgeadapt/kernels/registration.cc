// The library's single entry point: puts the ops of the domain "edgeadapt" into a session's options.
#include <pthread.h>

#include "ops.h"

// The ops of this library, a line each: those of adapters, which pay everywhere, and those of the backbone itself.
#define EDGEADAPT_ADAPTER_OPS(X) \
  X(RankOneUpdate)               \
  X(RankOneNorm)                 \
  X(LowRankUpdate)               \
  X(SpectralUpdate)              \
  X(HimalayaTerms)               \
  X(HimalayaDirection)           \
  X(AtomRoute)                   \
  X(AtomMixUpdate)
#define EDGEADAPT_BACKBONE_OPS(X) \
  X(QuantMatMul)                  \
  X(TanhGelu)                     \
  X(AddLayerNorm)

namespace edgeadapt {

#define EDGEADAPT_DECLARE(name) OrtCustomOp* Make##name(const OrtApi* api);
EDGEADAPT_ADAPTER_OPS(EDGEADAPT_DECLARE)
EDGEADAPT_BACKBONE_OPS(EDGEADAPT_DECLARE)
#undef EDGEADAPT_DECLARE

namespace {

constexpr const char* kDomain = "edgeadapt";

// A process may hold more than one copy of ONNX Runtime (its Python package and another engine's, for example). Each
// gets its own domain and ops, made once and never released: they must outlive every session that uses them.
// Of each there are two, with the backbone's ops and without: whether they pay is asked anew for every session.
struct Runtime {
  const OrtApiBase* base;
  bool backbone;
  OrtCustomOpDomain* domain;
  Runtime* next;
};

pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
Runtime* g_runtimes = nullptr;

// On x86-64 stock ONNX Runtime has fast kernels of its own for the bodies of the backbone's ops, and they run there,
// unless a test asks for ours by setting EDGEADAPT_OPS_ISA.
bool BackboneOpsPay() {
#if defined(__x86_64__)
  const char* asked = std::getenv("EDGEADAPT_OPS_ISA");
  return asked != nullptr && *asked != '\0';
#else
  return true;
#endif
}

// Before 1.24, ONNX Runtime's shape inference of a custom op reads the type of an optional input that is left out
// between two others, and the process ends there. An op that can have such a gap goes without inference on those.
bool InferenceMayCrash(const OrtApiBase* base, const OrtCustomOp* op) {
  const char* version = base->GetVersionString();  // "1.23.2"; read without scanf, whose symbol is a new glibc's
  int minor = 0;
  if (version[0] == '1' && version[1] == '.') {
    for (const char* digit = version + 2; *digit >= '0' && *digit <= '9'; ++digit) minor = 10 * minor + (*digit - '0');
  }
  if (minor >= 24) return false;
  size_t optional = 0;
  for (size_t i = 0; i < op->GetInputTypeCount(op); ++i) {
    if (op->GetInputCharacteristic(op, i) == INPUT_OUTPUT_OPTIONAL) ++optional;
  }
  return optional > 1;
}

OrtStatus* MakeDomain(const OrtApiBase* base, const OrtApi* api, bool backbone, OrtCustomOpDomain** domain) {
  using Maker = OrtCustomOp* (*)(const OrtApi*);
#define EDGEADAPT_ENTRY(name) Make##name,
  constexpr Maker kAdapters[] = {EDGEADAPT_ADAPTER_OPS(EDGEADAPT_ENTRY)};
  constexpr Maker kBackbone[] = {EDGEADAPT_BACKBONE_OPS(EDGEADAPT_ENTRY)};
#undef EDGEADAPT_ENTRY
  if (OrtStatus* status = api->CreateCustomOpDomain(kDomain, domain)) return status;
  const auto add = [&](Maker make) -> OrtStatus* {
    OrtCustomOp* op = make(api);
    if (op == nullptr) return api->CreateStatus(ORT_FAIL, "edgeadapt: out of memory");
    if (InferenceMayCrash(base, op)) op->InferOutputShapeFn = nullptr;
    return api->CustomOpDomain_Add(*domain, op);
  };
  for (const Maker make : kAdapters) {
    if (OrtStatus* status = add(make)) return status;
  }
  for (const Maker make : kBackbone) {
    if (!backbone) break;
    if (OrtStatus* status = add(make)) return status;
  }
  return nullptr;
}

OrtStatus* FindOrMakeDomain(const OrtApiBase* base, const OrtApi* api, OrtCustomOpDomain** domain) {
  const bool backbone = BackboneOpsPay();
  for (const Runtime* runtime = g_runtimes; runtime != nullptr; runtime = runtime->next) {
    if (runtime->base == base && runtime->backbone == backbone) {
      *domain = runtime->domain;
      return nullptr;
    }
  }
  if (OrtStatus* status = MakeDomain(base, api, backbone, domain)) return status;
  auto* runtime = Make<Runtime>(base, backbone, *domain, g_runtimes);
  if (runtime == nullptr) return api->CreateStatus(ORT_FAIL, "edgeadapt: out of memory");
  g_runtimes = runtime;
  return nullptr;
}

// The runtime is older than the headers: any older OrtApi begins with the same functions, CreateStatus among them.
OrtStatus* TooOld(const OrtApiBase* base) {
  for (uint32_t version = ORT_API_VERSION - 1; version > 0; --version) {
    const OrtApi* api = base->GetApi(version);
    if (api == nullptr) continue;
    char message[160];
    std::snprintf(message, sizeof message,
                  "libedgeadapt_ops needs onnxruntime 1.%d or newer, this is %s: pip install -U onnxruntime, or set "
                  "EDGEADAPT_OPS=off",
                  ORT_API_VERSION, base->GetVersionString());
    return api->CreateStatus(ORT_FAIL, message);
  }
  return nullptr;
}

}  // namespace
}  // namespace edgeadapt

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) return edgeadapt::TooOld(base);
  OrtCustomOpDomain* domain = nullptr;
  pthread_mutex_lock(&edgeadapt::g_lock);
  OrtStatus* status = edgeadapt::FindOrMakeDomain(base, api, &domain);
  pthread_mutex_unlock(&edgeadapt::g_lock);
  return status != nullptr ? status : api->AddCustomOpDomain(options, domain);
}
