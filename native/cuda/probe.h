// What a device reaches at most, measured: benchmarks call it the roof.
#pragma once
#include "cuda/runtime.h"

namespace nanochat {
namespace cuda {

struct Limits {
  double read_bytes_per_second = 0;      // from memory much larger than the L2 cache
  double float32_flops_per_second = 0;   // multiply-adds in registers, two operations each
  double bfloat16_flops_per_second = 0;  // the same of mma.sync, bf16 into float32
};

// Takes a fifth of a second, and 16 times the L2 cache of memory meanwhile.
Status measure_limits(int device, Limits* limits);

constexpr int kProbeThreads = 256;

// Adds up `words` (a multiple of kProbeWords) `rounds` times; a sum per thread.
struct ProbeRead {
  const uint32_t* data;
  int64_t words;
  int blocks, rounds;
  uint32_t* sums;           // (blocks, threads)
};
constexpr int64_t kProbeWords = kProbeThreads * 8 * 4;
void probe_read(Stream& stream, const ProbeRead& a);

// In every warp `rounds` times kProbeTiles products of (16, 16) by (16, 8); a sum of the results per thread. Likewise
// kProbeChains multiply-adds x = x / 2 + 1 per thread.
struct ProbeCompute {
  int blocks, rounds;
  float* sums;              // (blocks, threads)
};
constexpr int kProbeTiles = 8, kProbeChains = 16;
void probe_mma(Stream& stream, const ProbeCompute& a);
void probe_fma(Stream& stream, const ProbeCompute& a);

}  // namespace cuda
}  // namespace nanochat
