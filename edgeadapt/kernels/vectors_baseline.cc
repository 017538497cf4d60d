// What the platform guarantees: SSE2 on x86-64, NEON on ARMv8.0 (Raspberry Pi 4).
#define EDGEADAPT_VECTORS kVectorsBaseline
#define EDGEADAPT_ISA "baseline"
#define EDGEADAPT_WIDTH 4
#include "vectors_impl.h"
