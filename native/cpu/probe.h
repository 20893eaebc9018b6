// The machine's limits, measured: what the benchmarks call the roof.
#pragma once
#include <vector>

#include "cpu/kernels.h"

namespace nanochat {

// The best of several short trials each; the machine may be shared, so a limit is what was reached at least once.
struct MachineLimits {
  int threads = 0;
  double read_bytes_per_s = 0;  // from memory much larger than the caches
  double f32_flops_per_s = 0;   // multiply-adds in registers, two operations each
  double b16_flops_per_s = 0;   // the same for products of bf16 pairs that add up in float32
  double i8_ops_per_s = 0;      // the same for products of int8 quads that add up in int32
};

// One entry for each number of threads. Takes about a quarter of a second each and 256 MB of memory for the time.
std::vector<MachineLimits> measure_limits(const Kernels& kernels, const std::vector<int>& threads);

}  // namespace nanochat
