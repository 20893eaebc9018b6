#include "cpu/isa/headers.h"
#if defined(__x86_64__) && defined(__GNUC__)
#define NC_ISA avx512bf16
#define NC_LEVEL 3
#define NC_INT8_DOT
#define NC_BF16_DOT
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"))), apply_to = function)
#include "cpu/isa/kernels.inl"
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#include "cpu/isa/kernels.inl"
#pragma GCC pop_options
#endif
#endif
