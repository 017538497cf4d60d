#include "himalaya.h"

EDGEADAPT_FUZZ(HimalayaTerms, source) { return edgeadapt_fuzz::HimalayaCall(source); }
