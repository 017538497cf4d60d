#include "himalaya.h"

EDGEADAPT_FUZZ(HimalayaDirection, source) { return edgeadapt_fuzz::HimalayaCall(source); }
