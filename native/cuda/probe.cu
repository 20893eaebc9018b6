// The roof: a sum over memory, products and multiply-adds of registers, each repeated until its time can be measured.
#include <algorithm>
#include <chrono>

#include "cuda/device.h"
#include "cuda/probe.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kBlocksPerProcessor = 8, kTrials = 8;
constexpr double kTrialSeconds = 4e-3;    // against some 10 us that a launch and its end take
constexpr int kMostRounds = 1 << 24;
constexpr int64_t kCaches = 16;           // of memory read: what stays in the cache from round to round does not count

NC_KERNEL(kProbeThreads) probe_read_kernel(ProbeRead a) {
  constexpr int kLoads = 8;
  const auto* data = reinterpret_cast<const Chunk<uint32_t>*>(a.data);
  uint32_t sum = 0;
  for (int round = 0; round < a.rounds; round++) {
    for (int64_t tile = block_x(); tile < a.words / kProbeWords; tile += a.blocks) {
      Chunk<uint32_t> got[kLoads];
      NC_UNROLL
      for (int i = 0; i < kLoads; i++) got[i] = data[(tile * kLoads + i) * kProbeThreads + thread()];
      NC_UNROLL
      for (int i = 0; i < kLoads; i++) sum += got[i].at[0] + got[i].at[1] + got[i].at[2] + got[i].at[3];
    }
  }
  a.sums[block_x() * kProbeThreads + thread()] = sum;
}

NC_KERNEL(kProbeThreads) probe_mma_kernel(ProbeCompute a) {
  float c[kProbeTiles][4] = {};
  const float mine = 1 + static_cast<float>(lane()) / 128;  // note: not zeros, which cost less power and run faster
  const uint32_t pair = pack_bf16(mine, -mine), one = pack_bf16(1, 0.5f), left[4] = {pair, pair, pair, pair};
  for (int round = 0; round < a.rounds; round++) {
    NC_UNROLL
    for (int i = 0; i < kProbeTiles; i++) mma(c[i], left, one, one);
  }
  float sum = 0;
  NC_UNROLL
  for (int i = 0; i < kProbeTiles; i++) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
  a.sums[block_x() * kProbeThreads + thread()] = sum;
}

NC_KERNEL(kProbeThreads) probe_fma_kernel(ProbeCompute a) {
  float x[kProbeChains];
  NC_UNROLL
  for (int i = 0; i < kProbeChains; i++) x[i] = static_cast<float>(thread() + i);
  for (int round = 0; round < a.rounds; round++) {
    NC_UNROLL
    for (int i = 0; i < kProbeChains; i++) x[i] = fmaf(x[i], 0.5f, 1.0f);
  }
  float sum = 0;
  NC_UNROLL
  for (int i = 0; i < kProbeChains; i++) sum += x[i];
  a.sums[block_x() * kProbeThreads + thread()] = sum;
}

// Seconds of one round at best. note: rounds double until a launch takes long enough, so that a slow device does little.
template <class F> double seconds_per_round(Stream& stream, const F& launch) {
  const auto seconds = [&](int rounds) {
    const auto start = std::chrono::steady_clock::now();
    launch(rounds);
    stream.synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  int rounds = 1;
  double least = seconds(rounds);  // the first one loads the kernel
  while (stream.ok() && rounds < kMostRounds && (least = seconds(rounds)) < kTrialSeconds) rounds *= 2;
  for (int i = 0; i < kTrials && stream.ok(); i++) least = std::min(least, seconds(rounds));
  return least / rounds;
}

}  // namespace

void probe_read(Stream& stream, const ProbeRead& a) { launch(stream, "probe_read", probe_read_kernel, {a.blocks}, kProbeThreads, 0, a); }
void probe_mma(Stream& stream, const ProbeCompute& a) { launch(stream, "probe_mma", probe_mma_kernel, {a.blocks}, kProbeThreads, 0, a); }
void probe_fma(Stream& stream, const ProbeCompute& a) { launch(stream, "probe_fma", probe_fma_kernel, {a.blocks}, kProbeThreads, 0, a); }

Status measure_limits(int device, Limits* limits) {
  std::unique_ptr<Stream> opened;
  const Status status = Stream::open(device, &opened);
  if (!status.ok()) return status;
  const std::shared_ptr<Stream> stream = std::move(opened);
  stream->enter();
  const int blocks = stream->processors() * kBlocksPerProcessor;
  const int64_t tile = kProbeWords * 4, bytes = std::max(tile, std::min(kCaches * stream->cache_bytes(), stream->free_bytes() / 2) / tile * tile);
  const Memory data(stream, static_cast<size_t>(bytes)), sums(stream, static_cast<size_t>(blocks) * kProbeThreads * sizeof(float));
  stream->zero(data.as<void>(), data.bytes());
  const double warps = static_cast<double>(blocks) * kProbeThreads / kWarp, threads = static_cast<double>(blocks) * kProbeThreads;
  const double read = seconds_per_round(*stream, [&](int rounds) { probe_read(*stream, {data.as<uint32_t>(), bytes / 4, blocks, rounds, sums.as<uint32_t>()}); });
  const double fma = seconds_per_round(*stream, [&](int rounds) { probe_fma(*stream, {blocks, rounds, sums.as<float>()}); });
  const double mma = seconds_per_round(*stream, [&](int rounds) { probe_mma(*stream, {blocks, rounds, sums.as<float>()}); });
  *limits = {static_cast<double>(bytes) / read, threads * kProbeChains * 2 / fma, warps * kProbeTiles * 2 * 16 * 8 * 16 / mma};
  return stream->take_status();
}

}  // namespace cuda
}  // namespace nanochat
