// The machine's limits, measured: what the benchmarks call the roof.
#pragma once
#include <vector>

#include "cpu/kernels.h"

namespace nanochat {

// The best of several short trials each; the machine may be shared, so a limit is what was reached at least once.
struct MachineLimits {
  int threads = 0;
  double read_bytes_per_s = 0;  // the same bytes from beginning to end, again and again
  double read_median_bytes_per_s = 0;  // not the best trial but the middle one, of the loop that reads fastest: what reading keeps up
  double f32_flops_per_s = 0;   // multiply-adds in registers, two operations each
  double b16_flops_per_s = 0;   // the same for products of bf16 pairs that add up in float32
  double i8_ops_per_s = 0;      // the same for products of int8 quads that add up in int32
};

constexpr int64_t kLeastReadBytes = int64_t{256} << 20, kMostReadBytes = int64_t{1} << 30;

// One entry for each number of threads, after reading `read_bytes`: of 256 MB a 32 MB L3 still gives a tenth, so what is
// compared with the limit should read as many. Takes that memory for the time, and about a quarter of a second per entry
// and 256 MB. Throws std::bad_alloc.
std::vector<MachineLimits> measure_limits(const Kernels& kernels, const std::vector<int>& threads, int64_t read_bytes);

}  // namespace nanochat
