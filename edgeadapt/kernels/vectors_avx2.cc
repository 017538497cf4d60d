// x86-64 with AVX2, FMA and F16C.
#define EDGEADAPT_VECTORS kVectorsAvx2
#define EDGEADAPT_ISA "avx2"
#define EDGEADAPT_WIDTH 8
#include "vectors_impl.h"
