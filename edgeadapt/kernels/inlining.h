// For files that are compiled once per instruction set: functions of their own, and loops that are written out.
#pragma once

// Internal linkage and always inlined: the linker must not share a copy between instruction sets.
#define EDGEADAPT_INLINE static inline __attribute__((always_inline))

// Before a loop over rows, blocks or lanes: it is short and its counter indexes what should be registers.
#if defined(__clang__)
#define EDGEADAPT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define EDGEADAPT_UNROLL _Pragma("GCC unroll 8")
#endif
