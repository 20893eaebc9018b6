#include "cpu/isa/headers.h"
#if defined(__x86_64__) && defined(__GNUC__)
#define NC_ISA avx2
#define NC_LEVEL 2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#include "cpu/isa/kernels.inl"
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#include "cpu/isa/kernels.inl"
#pragma GCC pop_options
#endif
#endif
