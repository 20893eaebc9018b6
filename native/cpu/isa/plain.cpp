#include "cpu/isa/headers.h"
#define NC_ISA plain
#define NC_LEVEL 0
#include "cpu/isa/kernels.inl"
