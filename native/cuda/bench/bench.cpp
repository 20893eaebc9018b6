// nc_gpu_bench [depths] [batches] [context] [prompts]        e.g. nc_gpu_bench 12,20,32 1,8,32,128 1024 512,2048
// nc_gpu_bench kernels [depths] [rows]                       e.g. nc_gpu_bench kernels 12,20,26,32 512,2048
// nc_gpu_bench attention [lengths] [heads]                      that kernel alone
// Models of nanochat's shapes, of noise (n_embd 64 * depth, head_dim 128): decoding steps at a context, prompts in one pass. A
// table as it goes, one JSON line last. A batch of 1 is also timed as one kernel per step (decode_step.cu). The floor of a step is what it must read (matrices once, visible keys and values of
// every row) at the bandwidth that NC_BANDWIDTH gives in GB/s, default 4300 (an H200 copying).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>

#include "cuda/bench/bench.h"
#include "cuda/forward.h"

namespace nanochat {
namespace cuda {

namespace {

#ifdef NC_EMULATION
constexpr int kRepeats = 3, kSteps = 2;  // times that mean nothing
#else
constexpr int kRepeats = 9, kSteps = 32;
#endif
const uint8_t never = 0;

std::vector<int> numbers(const char* text) {
  std::vector<int> out;
  std::stringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) out.push_back(std::atoi(item.c_str()));
  return out;
}

template <class F> double median_ms(const F& run) {
  std::vector<double> times;
  for (int i = 0; i < kRepeats; i++) {
    const auto start = std::chrono::steady_clock::now();
    run();
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2];
}

double step_bytes(const ModelConfig& c, int64_t rows, int64_t context) {
  const double matrices = static_cast<double>(c.n_layer) * (static_cast<double>(c.qkv_dim()) * c.n_embd + static_cast<double>(c.n_embd) * c.n_embd + 2.0 * c.mlp_hidden * c.n_embd) +
                          static_cast<double>(c.vocab_size) * c.n_embd;
  double keys = 0;
  for (int window : c.windows) keys += static_cast<double>(window < 0 ? context : std::min<int64_t>(context, window + 1));
  return 2 * (matrices + static_cast<double>(rows) * keys * 2 * c.kv_dim());
}

// Weights that are quick to make: one list of normal numbers, each tensor from another place in it.
Source noise_source() {
  auto noise = std::make_shared<std::vector<float>>();
  std::mt19937 bits(1);
  std::normal_distribution<float> normal(0, 0.02f);
  for (int i = 0; i < 1 << 20; i++) noise->push_back(normal(bits));
  Source source;
  source.is_bf16 = [](const std::string&, int64_t, int64_t) { return true; };
  source.read = [noise](const std::string& name, int64_t, int64_t columns, int64_t from, int64_t count, float* out) {
    size_t at = (std::hash<std::string>()(name) + static_cast<size_t>(from * columns)) % noise->size(), left = static_cast<size_t>(count * columns);
    for (size_t some = 0; left > 0; left -= some, out += some, at = 0) {
      some = std::min(left, noise->size() - at);
      std::copy_n(noise->data() + at, some, out);
    }
    return Status();
  };
  source.progress = [](int64_t, int64_t) { return true; };
  return source;
}

struct Bench {
  std::unique_ptr<Model> model;
  std::vector<int32_t> ids;
  std::string json;
  double bandwidth;

  void check(const Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "%s: %s\n", status.code, status.message.c_str());
    std::exit(1);
  }

  void append(Sequence& sequence, int64_t count, WantedLogits wanted) {
    std::vector<float> out(static_cast<size_t>(model->config().vocab_size));
    check(model->forward({{&sequence, ids.data(), count, wanted}}, out.data(), &never));
  }

  void decode(int depth, int batch, int context, bool is_persistent) {
    model->set_persistent(is_persistent);
    Sequence prompt(model->slots());
    for (int64_t done = 0; done < context; done += 256) append(prompt, std::min<int64_t>(256, context - done), WantedLogits::none);
    std::vector<std::unique_ptr<Sequence>> rows;
    std::vector<BatchRow> all;
    for (int r = 0; r < batch; r++) {
      rows.push_back(prompt.fork());
      all.push_back({rows.back().get(), ids.data() + r, 1, WantedLogits::last});
    }
    const auto run = [&] {
      std::vector<std::vector<int32_t>> drawn;
      check(model->decode(all, std::vector<Draw>(static_cast<size_t>(batch), Draw{1, 0, 42, 0, 0, kSteps, 0}), {}, &drawn, &never));
      for (const auto& row : rows) row->truncate(context);
    };
    run();  // slots become the rows' own, and the step is captured
    if (is_persistent && !model->was_persistent()) {
      std::printf("d%-3d decode  SKIP one kernel per step: it does not fit on this device\n", depth);
      return;
    }
    const double ms = median_ms(run) / kSteps, floor_ms = step_bytes(model->config(), batch, context) / bandwidth / 1e6;
    std::printf("d%-3d decode  batch %-4d context %-5d %9.3f ms/step %11.0f tok/s %6.1f %% of floor%s\n", depth, batch, context, ms, batch / ms * 1e3, 100 * floor_ms / ms,
                is_persistent ? ", one kernel" : "");
    add("{\"depth\":%d,\"what\":\"%s\",\"batch\":%d,\"context\":%d,\"ms\":%.5f,\"floorMs\":%.5f}", depth, is_persistent ? "decode in one kernel" : "decode", batch, context, ms, floor_ms);
  }

  void prefill(int depth, int length) {
    const double ms = median_ms([&] {
      Sequence sequence(model->slots());
      append(sequence, length, WantedLogits::last);
    });
    std::printf("d%-3d prefill %-5d                   %9.3f ms      %11.0f tok/s\n", depth, length, ms, length / ms * 1e3);
    add("{\"depth\":%d,\"what\":\"prefill\",\"tokens\":%d,\"ms\":%.5f}", depth, length, ms);
  }

  template <class... A> void add(const char* format, A... values) {
    char text[256];
    std::snprintf(text, sizeof text, format, values...);
    json += (json.empty() ? "" : ",") + std::string(text);
  }
};

}  // namespace

// The products of a layer alone, each on weights that are not in the L2 cache: the kernel that gemm() takes and the portable one.
void bench_gemm(Stream* opened, int depth, int rows, std::string* json) {
  const std::shared_ptr<Stream> stream(opened, [](Stream*) {});
  struct Product {
    const char* name;
    int outputs, k;
    Epilogue epilogue;
  };
  const int C = 64 * depth;
  const Product products[] = {{"c_qkv", 3 * C, C, Epilogue::store}, {"c_proj", C, C, Epilogue::add}, {"c_fc", 4 * C, C, Epilogue::relu2}, {"mlp.c_proj", C, 4 * C, Epilogue::add}};
  const size_t weights = std::max<size_t>(size_t{80} << 20, size_t{4} * C * C);  // elements
  const Memory x(stream, static_cast<size_t>(rows) * 4 * C * sizeof(bf16)), w(stream, weights * sizeof(bf16)), y(stream, static_cast<size_t>(rows) * 4 * C * sizeof(float));
  std::mt19937 bits(1);
  std::vector<bf16> noise(1 << 20);
  for (bf16& v : noise) v = to_bf16(static_cast<float>(bits() % 2001) / 1000 - 1);
  const auto fill = [&](const Memory& memory) {
    for (size_t at = 0; at < memory.bytes(); at += noise.size() * sizeof(bf16)) stream->to_device(memory.as<char>() + at, noise.data(), std::min(noise.size() * sizeof(bf16), memory.bytes() - at));
  };
  fill(x);
  fill(w);
  stream->zero(y.as<void>(), y.bytes());
  for (const Product& p : products) {
    const auto us = [&](void (*kernel)(Stream&, const Matmul<bf16>&)) {
      const auto graph = stream->capture([&] {
        for (int i = 0; i < kSteps; i++) {
          const size_t one = static_cast<size_t>(p.outputs) * p.k;
          kernel(*stream, {x.as<bf16>(), w.as<bf16>() + i % (weights / one) * one, p.k, y.as<void>(), p.outputs, rows, p.outputs, p.epilogue, 15, nullptr, nullptr});
        }
      });
      return median_ms([&] {
        if (graph) stream->replay(*graph);
        stream->synchronize();
      }) * 1e3 / kSteps;
    };
    const double flop = 2.0 * rows * p.outputs * p.k, portable = us(gemm_portable), chosen = us(gemm);
    std::printf("d%-3d gemm %-10s %4d x %-5d k %-5d %9.2f us %6.0f TFLOP/s   portable %9.2f us %6.0f TFLOP/s\n", depth, p.name, rows, p.outputs, p.k, chosen, flop / chosen / 1e6, portable, flop / portable / 1e6);
    char text[256];
    std::snprintf(text, sizeof text, "%s{\"depth\":%d,\"what\":\"gemm\",\"name\":\"%s\",\"rows\":%d,\"us\":%.3f,\"portableUs\":%.3f,\"flop\":%.0f}", json->empty() ? "" : ",", depth, p.name, rows, chosen, portable, flop);
    *json += text;
  }
}

int bench_kernels(const std::vector<int>& depths, const std::vector<int>& rows) {
  std::unique_ptr<Stream> stream;
  Status status = Stream::open(0, &stream);
  std::string json, name;
  int64_t bytes = 0;
  if (status.ok()) status = describe_device(0, &name, &bytes);
  if (status.ok()) {
    stream->enter();
    for (int depth : depths) for (int count : rows) bench_gemm(stream.get(), depth, count, &json);
    status = stream->take_status();
  }
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", status.code, status.message.c_str());
    return 1;
  }
  std::printf("{\"device\":\"%s\",\"rows\":[%s]}\n", name.c_str(), json.c_str());
  return 0;
}

int bench(const std::vector<int>& depths, const std::vector<int>& batches, int context, const std::vector<int>& prompts) {
  std::string name;
  int64_t bytes = 0;
  Bench b;
  int count = 0;
  b.check(count_devices(&count));
  b.check(describe_device(0, &name, &bytes));
  const char* bandwidth = std::getenv("NC_BANDWIDTH");
  b.bandwidth = bandwidth ? std::atof(bandwidth) : 4300;
  std::printf("%s, %lld MB; floor at %.0f GB/s\n", name.c_str(), static_cast<long long>(bytes >> 20), b.bandwidth);
  for (int i = 0; i < 8192; i++) b.ids.push_back(i * 37 % 251);
  for (int depth : depths) {
    ModelSpec spec;
    spec.sequence_len = 2048;
    spec.vocab_size = depth < 4 ? 256 : 32768;
    spec.n_layer = depth;
    spec.n_embd = 64 * depth;
    spec.n_head = spec.n_kv_head = std::max(1, depth / 2);
    spec.window_pattern = "SSSL";
    ModelConfig config;
    b.check(make_config(spec, &config));
    b.check(load_model(0, config, true, noise_source(), &b.model));
    for (int batch : batches) {
      b.decode(depth, batch, context, false);
      if (batch == 1) b.decode(depth, batch, context, true);
    }
    for (int length : prompts) b.prefill(depth, length);
  }
  std::printf("{\"device\":\"%s\",\"bandwidth\":%.0f,\"rows\":[%s]}\n", name.c_str(), b.bandwidth, b.json.c_str());
  return 0;
}

}  // namespace cuda
}  // namespace nanochat

int main(int argc, char** argv) {
  using namespace nanochat::cuda;
  const auto argument = [&](int i, const char* fallback) { return argc > i ? argv[i] : fallback; };
  if (std::string(argument(1, "")) == "kernels") return bench_kernels(numbers(argument(2, "12,20,26,32")), numbers(argument(3, "512,2048")));
  if (argc > 1 && !std::strcmp(argv[1], "attention")) {
    std::string rows;
    for (int heads : numbers(argument(3, "16"))) {
      for (int length : numbers(argument(2, "512,2048,8192"))) {
        for (int window : {-1, 2048, 512}) {
          if (window < length) rows += (rows.empty() ? "" : ",") + bench_attention(heads, length, window);
        }
      }
    }
    std::printf("{\"rows\":[%s]}\n", rows.c_str());
    return 0;
  }
  return bench(numbers(argument(1, "12,20")), numbers(argument(2, "1,8,32,128")), std::atoi(argument(3, "1024")), numbers(argument(4, "512,2048")));
}
