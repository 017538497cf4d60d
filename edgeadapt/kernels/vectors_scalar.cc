// One float at a time: the plainest reading of vectors_impl.h, on any processor.
#define EDGEADAPT_VECTORS kVectorsScalar
#define EDGEADAPT_ISA "scalar"
#define EDGEADAPT_WIDTH 1
#include "vectors_impl.h"
