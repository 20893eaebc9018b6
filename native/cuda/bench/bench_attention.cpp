// attention_prefill alone: causal, head_dim 128, one row. The operations are those of the visible keys, 4 D for each of them
// and each query.
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

constexpr int kDim = 128, kSamples = 9, kCalls = 30;

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
  const auto calls = stream.capture([&] {
    for (int i = 0; i < kCalls; i++) call();
  });
  check(stream);
  stream.replay(*calls);
  for (int s = 0; s < kSamples; s++) {
    stream.synchronize();
    const auto start = std::chrono::steady_clock::now();
    stream.replay(*calls);
    stream.synchronize();
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / kCalls);
  }
  check(stream);
  std::nth_element(times.begin(), times.begin() + kSamples / 2, times.end());
  return times[kSamples / 2];
}

}  // namespace

std::string bench_attention(int heads, int length, int window) {
  std::unique_ptr<Stream> opened;
  const Status status = Stream::open(0, &opened);
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", status.code, status.message.c_str());
    std::exit(1);
  }
  std::shared_ptr<Stream> stream = std::move(opened);
  stream->enter();
  const int64_t elements = int64_t{length} * heads * kDim;
  const Memory q = noise(stream, elements), slot = noise(stream, 2 * elements), y(stream, static_cast<size_t>(elements) * sizeof(bf16));
  const std::vector<Row> row_list = {{slot.as<void>(), length}};
  const Memory rows(stream, sizeof(Row)), maps(stream, 2 * sizeof(TensorMap)), tiles(stream, static_cast<size_t>(length) * sizeof(QueryTile));
  TensorMap map_list[2] = {};
  const bool hopper = prefill_takes_maps(*stream, kDim);
  if (hopper) prefill_maps(*stream, q.as<bf16>(), length, heads, 2 * heads, row_list, {length}, map_list);
  stream->to_device(rows.as<void>(), row_list.data(), sizeof(Row));
  stream->to_device(maps.as<void>(), map_list, sizeof map_list);
  const auto time = [&](int most, bool portable) {
    std::vector<QueryTile> list;
    for (int t = 0; t < length; t += most) list.push_back({0, t, std::min(most, length - t), t});
    std::reverse(list.begin(), list.end());
    stream->to_device(tiles.as<void>(), list.data(), list.size() * sizeof(QueryTile));
    stream->synchronize();
    const AttentionPrefill p{{nullptr, rows.as<Row>(), q.as<bf16>(), heads, heads, kDim, kDim, 0, window, 1 / std::sqrt(static_cast<float>(kDim)), nullptr, nullptr, nullptr, y.as<bf16>(), heads * kDim},
                             tiles.as<QueryTile>(), most, portable ? nullptr : maps.as<TensorMap>()};
    return median_us(*stream, [&] { attention_prefill(*stream, p, static_cast<int64_t>(list.size())); });
  };
  double visible = 0;
  for (int i = 0; i < length; i++) visible += i - first_visible(i, window) + 1;
  const double operations = 4.0 * kDim * heads * visible;
  std::string json;
  const auto row = [&](const char* name, int most, bool portable) {
    const double us = time(most, portable);
    std::printf("attention H %-3d T %-5d window %-5d %-10s %9.1f us %5.0f TFLOP/s\n", heads, length, window, name, us, operations / us / 1e6);
    char text[256];
    std::snprintf(text, sizeof text, "{\"what\":\"attention\",\"kernel\":\"%s\",\"heads\":%d,\"tokens\":%d,\"window\":%d,\"us\":%.2f,\"tflops\":%.1f}", name, heads, length, window, us,
                  operations / us / 1e6);
    json += (json.empty() ? "" : ",") + std::string(text);
  };
  row("portable", kTileQueries, true);
  if (hopper) row("sm90 x64", kTileQueries, false);
  if (hopper) row("sm90 x128", kHopperTileQueries, false);
  return json;
}

}  // namespace cuda
}  // namespace nanochat
