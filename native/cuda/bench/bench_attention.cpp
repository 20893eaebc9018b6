// attention_prefill alone: causal, head_dim 128, one row of 16 heads whose keys were just written. The operations are those
// of the visible keys, 4 D for each query and key.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "cuda/bench/bench.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kHeads = 16, kDim = 128, kSamples = 9, kCalls = 30;

void check(Stream& stream) {
  const Status status = stream.take_status();
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", status.code, status.message.c_str());
  std::exit(1);
}

Memory noise(const std::shared_ptr<Stream>& stream, int64_t count) {
  std::mt19937 bits(1);
  std::normal_distribution<float> normal;
  std::vector<bf16> values;
  for (int i = 0; i < 1 << 20; i++) values.push_back(from_float<bf16>(normal(bits)));
  Memory memory(stream, static_cast<size_t>(count) * sizeof(bf16));
  for (int64_t done = 0; done < count; done += 1 << 20) {
    stream->to_device(memory.as<bf16>() + done, values.data(), static_cast<size_t>(std::min<int64_t>(1 << 20, count - done)) * sizeof(bf16));
  }
  stream->synchronize();
  return memory;
}

// Microseconds of a call.
template <class F> double median_us(Stream& stream, const F& call) {
  std::vector<double> times;
  call();
  for (int s = 0; s < kSamples; s++) {
    stream.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; i++) call();
    stream.synchronize();
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / kCalls);
  }
  check(stream);
  std::nth_element(times.begin(), times.begin() + kSamples / 2, times.end());
  return times[kSamples / 2];
}

}  // namespace

std::string bench_attention(int length, int window) {
  std::unique_ptr<Stream> opened;
  const Status status = Stream::open(0, &opened);
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", status.code, status.message.c_str());
    std::exit(1);
  }
  std::shared_ptr<Stream> stream = std::move(opened);
  stream->enter();
  const int64_t elements = int64_t{length} * kHeads * kDim;
  const Memory q = noise(stream, elements), slot = noise(stream, 2 * elements), y(stream, static_cast<size_t>(elements) * sizeof(bf16));
  const std::vector<Row> row_list = {{slot.as<void>(), length}};
  const Memory rows(stream, sizeof(Row)), maps(stream, 2 * sizeof(TensorMap)), tiles(stream, static_cast<size_t>(length) * sizeof(QueryTile));
  TensorMap map_list[2] = {};
  if (stream->is_hopper()) prefill_maps(*stream, q.as<bf16>(), length, kHeads, 2 * kHeads, row_list, {length}, map_list);
  stream->to_device(rows.as<void>(), row_list.data(), sizeof(Row));
  stream->to_device(maps.as<void>(), map_list, sizeof map_list);
  const auto time = [&](int most, void (*prefill)(Stream&, const AttentionPrefill&, int64_t)) {
    std::vector<QueryTile> list;
    for (int t = 0; t < length; t += most) list.push_back({0, t, std::min(most, length - t), t});
    std::reverse(list.begin(), list.end());
    stream->to_device(tiles.as<void>(), list.data(), list.size() * sizeof(QueryTile));
    stream->synchronize();
    const AttentionPrefill p{{nullptr, rows.as<Row>(), q.as<bf16>(), kHeads, kHeads, kDim, kDim, 0, window, 1 / std::sqrt(static_cast<float>(kDim)), nullptr, nullptr, y.as<bf16>(), kHeads * kDim},
                             tiles.as<QueryTile>(), maps.as<TensorMap>()};
    return median_us(*stream, [&] { prefill(*stream, p, static_cast<int64_t>(list.size())); });
  };
  double visible = 0;
  for (int i = 0; i < length; i++) visible += i - first_visible(i, window) + 1;
  const double operations = 4.0 * kDim * kHeads * visible;
  const double portable = time(kTileQueries, attention_prefill_portable), best = stream->is_hopper() ? time(kHopperTileQueries, attention_prefill) : portable;
  std::printf("attention %-5d window %-5d portable %9.1f us %5.0f TFLOP/s   here %9.1f us %5.0f TFLOP/s\n", length, window, portable, operations / portable / 1e6, best, operations / best / 1e6);
  char text[256];
  std::snprintf(text, sizeof text, "{\"what\":\"attention\",\"tokens\":%d,\"window\":%d,\"portableUs\":%.2f,\"us\":%.2f,\"tflops\":%.1f}", length, window, portable, best, operations / best / 1e6);
  return text;
}

}  // namespace cuda
}  // namespace nanochat
