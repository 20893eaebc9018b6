#include "cpu/isa/headers.h"
#if defined(__aarch64__) || defined(_M_ARM64)
#define NC_ISA neon
#define NC_LEVEL 1
#include "cpu/isa/kernels.inl"
#endif
