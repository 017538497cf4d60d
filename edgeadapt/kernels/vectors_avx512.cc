// x86-64 with AVX-512 F, BW, DQ and VL.
#define EDGEADAPT_VECTORS kVectorsAvx512
#define EDGEADAPT_ISA "avx512"
#define EDGEADAPT_WIDTH 16
#include "vectors_impl.h"
