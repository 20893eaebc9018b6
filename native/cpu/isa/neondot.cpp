#include "cpu/isa/headers.h"
#if defined(__aarch64__) && defined(__GNUC__)
#define NC_ISA neondot
#define NC_LEVEL 1
#define NC_INT8_DOT
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#include "cpu/isa/kernels.inl"
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#include "cpu/isa/kernels.inl"
#pragma GCC pop_options
#endif
#endif
