#include "cpu/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "cpu/buffer.h"
#include "cpu/thread_pool.h"

namespace nanochat {

namespace {

constexpr int64_t kChunk = (1 << 20) / sizeof(float);  // elements that one task reads
constexpr int kTrials = 7;
constexpr double kTrialSeconds = 0.004;        // of multiply-adds: shorter than a scheduler's time slice

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

// The sums of the loops end here, where the compiler must believe that they are wanted.
std::atomic<float> sink{0};

void measure_reading(const Kernels& kernels, ThreadPool* pool, const Buffer& memory, MachineLimits* of) {
  const int64_t chunks = static_cast<int64_t>(memory.bytes() / sizeof(float)) / kChunk;
  const int streams[] = {0, 1, 4};
  double speeds[3][kTrials];
  for (int trial = 0; trial < 3 * kTrials; trial++) {
    const auto start = std::chrono::steady_clock::now();
    pool->run(chunks, [&](int64_t task) {
      sink.store(kernels.probe.read(memory.as<float>() + task * kChunk, kChunk, streams[trial % 3]), std::memory_order_relaxed);
    });
    speeds[trial % 3][trial / 3] = static_cast<double>(chunks * kChunk) * sizeof(float) / seconds_since(start);
  }
  for (auto& of_loop : speeds) {
    std::sort(of_loop, of_loop + kTrials);
    of->read_bytes_per_s = std::max(of->read_bytes_per_s, of_loop[kTrials - 1]);
    of->read_median_bytes_per_s = std::max(of->read_median_bytes_per_s, of_loop[kTrials / 2]);
  }
}

template <class T> T one_half() { return from_float<T>(0.5f); }
template <> int8_t one_half<int8_t>() { return 64; }

template <class T>
double flops_per_s(double (*products)(const T* x, const float* start, int64_t steps, float* sum), ThreadPool* pool) {
  const std::vector<T> x(256, one_half<T>());
  const std::vector<float> start(1024, 1.0f);
  const auto measure = [&](int64_t steps) {
    std::vector<double> flops(static_cast<size_t>(pool->threads()));
    const auto begin = std::chrono::steady_clock::now();
    pool->run(pool->threads(), [&](int64_t task) {
      float sum;
      flops[static_cast<size_t>(task)] = products(x.data(), start.data(), steps, &sum);
      sink.store(sum, std::memory_order_relaxed);
    });
    double all = 0;
    for (double one : flops) all += one;
    return all / seconds_since(begin);
  };
  int64_t steps = 1000;
  for (auto begin = std::chrono::steady_clock::now(); measure(steps), seconds_since(begin) < kTrialSeconds; begin = std::chrono::steady_clock::now()) steps *= 2;
  double best = 0;
  for (int trial = 0; trial < kTrials; trial++) best = std::max(best, measure(steps));
  return best;
}

}  // namespace

std::vector<MachineLimits> measure_limits(const Kernels& kernels, const std::vector<int>& threads, int64_t read_bytes) {
  Buffer memory(static_cast<size_t>(read_bytes));
  std::fill_n(memory.as<float>(), memory.bytes() / sizeof(float), 1.0f);  // first touch
  std::vector<MachineLimits> limits;
  for (int count : threads) {
    ThreadPool pool(count);
    MachineLimits of;
    of.threads = count;
    of.f32_flops_per_s = flops_per_s(kernels.probe.f32_products, &pool);
    of.b16_flops_per_s = flops_per_s(kernels.probe.b16_products, &pool);
    of.i8_ops_per_s = flops_per_s(kernels.probe.i8_products, &pool);
    measure_reading(kernels, &pool, memory, &of);
    limits.push_back(of);
  }
  return limits;
}

}  // namespace nanochat
