// Four floats at a time, for ops that are written once for every processor: what they are registered for (Cortex-A72)
// holds four in a register.
#pragma once

namespace edgeadapt {

typedef float Four __attribute__((vector_size(16)));
typedef float FourUnaligned __attribute__((vector_size(16), aligned(alignof(float)), may_alias));

inline Four LoadFour(const float* p) { return *reinterpret_cast<const FourUnaligned*>(p); }
inline void StoreFour(float* p, Four v) { *reinterpret_cast<FourUnaligned*>(p) = v; }

}  // namespace edgeadapt
