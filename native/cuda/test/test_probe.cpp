// The probe: its kernels do all of the work that they are timed for, and the limits are numbers.
#include <numeric>

#include "cuda/probe.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

void check_read(int64_t tiles, int blocks, int rounds) {
  Array<uint32_t> data(static_cast<size_t>(tiles * kProbeWords)), sums(static_cast<size_t>(blocks * kProbeThreads));
  uint32_t expected = 0;
  for (uint32_t& word : data.host()) expected += word = static_cast<uint32_t>(random_bits());
  probe_read(*stream, {data.at(Side::device), tiles * kProbeWords, blocks, rounds, sums.at(Side::device)});
  const std::vector<uint32_t> read = sums.read_raw();
  const std::string what = "probe: " + std::to_string(tiles) + " tiles, " + std::to_string(blocks) + " blocks, " + std::to_string(rounds) + " rounds";
  expect(std::accumulate(read.begin(), read.end(), uint32_t{0}) == expected * static_cast<uint32_t>(rounds), what + ", the sum of all words");
  expect_status(nullptr, what);
}

void check_compute() {
  const int blocks = 2, rounds = 3;
  Array<float> products(blocks * kProbeThreads), chains(blocks * kProbeThreads);
  probe_mma(*stream, {blocks, rounds, products.at(Side::device)});
  probe_fma(*stream, {blocks, rounds, chains.at(Side::device)});
  for (int i = 0; i < blocks * kProbeThreads; i++) {
    const int thread = i % kProbeThreads, group = thread % kWarp / 4;
    // row g of the left is (1 + lane / 128) (1, -1) of its four lanes, each column of the right (1, 0.5): 1/2 of it remains
    double product = 0, chain = 0;
    for (int l = 0; l < 4; l++) product += 2 * (1 + (4 * group + l) / 128.0) * 0.5;
    for (int c = 0; c < kProbeChains; c++) chain += (thread + c) / 8.0 + 1.75;
    products[static_cast<size_t>(i)] = static_cast<float>(4 * kProbeTiles * rounds * product);
    chains[static_cast<size_t>(i)] = static_cast<float>(chain);
  }
  expect_near(products.read(), products.expected(), 1e-6, "probe: products");
  expect_near(chains.read(), chains.expected(), 1e-6, "probe: multiply-adds");
}

}  // namespace

void test_probe() {
  check_read(1, 3, 1);
  check_read(5, 2, 3);
  check_compute();
  Limits limits;
  const Status status = measure_limits(0, &limits);
  expect(status.ok(), "probe: " + status.message);
  for (double rate : {limits.read_bytes_per_second, limits.float32_flops_per_second, limits.bfloat16_flops_per_second}) {
    expect(rate > 1e4 && rate < 1e17, "probe: a rate of " + std::to_string(rate));
  }
  expect(measure_limits(99, &limits).code == std::string("ERR_DEVICE_UNAVAILABLE"), "probe: a device that is not there");
  std::printf("  %.3g GB/s, %.3g GFLOP/s float32, %.3g GFLOP/s bfloat16\n", limits.read_bytes_per_second / 1e9, limits.float32_flops_per_second / 1e9, limits.bfloat16_flops_per_second / 1e9);
}

}  // namespace cuda
}  // namespace nanochat
