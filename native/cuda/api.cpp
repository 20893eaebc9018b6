#include "cuda/api.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "cuda/forward.h"
#include "cuda/probe.h"

struct nc_cuda_model {
  std::unique_ptr<nanochat::cuda::Model> model;
};
struct nc_cuda_sequence {
  std::unique_ptr<nanochat::cuda::Sequence> sequence;
};

namespace nanochat {
namespace cuda {

namespace {

template <size_t kSize> void copy_text(char (&to)[kSize], const std::string& text) {
  const size_t length = std::min(text.size(), kSize - 1);
  std::memcpy(to, text.data(), length);
  to[length] = 0;
}

// Nothing that a call throws leaves the library.
template <class F> int32_t report(nc_cuda_status* out, const F& call) {
  Status status;
  try {
    status = call();
  } catch (const std::bad_alloc&) {
    status = Status::error("ERR_OUT_OF_MEMORY", "Not enough memory for this pass. Use fewer rows or shorter prompts.");
  }
  if (status.ok()) return 0;
  copy_text(out->code, status.code);
  copy_text(out->message, status.message);
  return 1;
}

ModelConfig config_of(const nc_cuda_config& c) {
  ModelConfig config;
  config.sequence_len = c.sequence_len;
  config.vocab_size = c.vocab_size;
  config.n_layer = c.n_layer;
  config.n_head = c.n_head;
  config.n_kv_head = c.n_kv_head;
  config.n_embd = c.n_embd;
  config.head_dim = c.head_dim;
  config.mlp_hidden = c.mlp_hidden;
  config.windows.assign(c.windows, c.windows + c.n_layer);
  config.softcap = c.softcap;
  config.rope_base = c.rope_base;
  config.norm_eps = c.norm_eps;
  config.qk_scale = c.qk_scale;
  config.rope_table_bf16 = c.rope_table_bf16 != 0;
  config.has_lambdas = c.has_lambdas != 0;
  config.has_smear = c.has_smear != 0;
  config.ve_gate_channels = c.ve_gate_channels;
  config.ve_gate_scale = c.ve_gate_scale;
  return config;
}

// The code as a string of the library's own, which outlives the status.
const char* code_of(const char* code) {
  for (const char* known : {"ERR_ABORTED", "ERR_CHECKPOINT_ARCH", "ERR_CHECKPOINT_FORMAT", "ERR_OUT_OF_MEMORY"}) if (std::strcmp(code, known) == 0) return known;
  return "ERR_CUDA";
}

Source source_of(const nc_cuda_source& s) {
  Source source;
  source.is_bf16 = [s](const std::string& name, int64_t rows, int64_t columns) { return s.is_bf16(s.user, name.c_str(), rows, columns) != 0; };
  source.read = [s](const std::string& name, int64_t rows, int64_t columns, int64_t from, int64_t count, float* out) {
    nc_cuda_status status = {};
    if (s.read(s.user, name.c_str(), rows, columns, from, count, out, &status) == 0) return Status{};
    return Status::error(code_of(status.code), status.message);
  };
  source.progress = [s](int64_t bytes, int64_t total) { return s.progress(s.user, bytes, total) == 0; };
  return source;
}

std::vector<BatchRow> batch_of(const nc_cuda_row* rows, int64_t count) {
  std::vector<BatchRow> batch;
  for (int64_t r = 0; r < count; r++) {
    batch.push_back({rows[r].sequence->sequence.get(), rows[r].tokens, rows[r].count, static_cast<WantedLogits>(rows[r].logits)});
  }
  return batch;
}

int32_t count_devices_call(int32_t* count, nc_cuda_status* status) {
  return report(status, [&] { return count_devices(count); });
}

int32_t describe_device_call(int32_t device, char name[256], int64_t* bytes, nc_cuda_status* status) {
  return report(status, [&] {
    std::string text;
    const Status result = describe_device(device, &text, bytes);
    copy_text(*reinterpret_cast<char(*)[256]>(name), text);
    return result;
  });
}

int32_t free_memory(int32_t device, int64_t* bytes, nc_cuda_status* status) {
  return report(status, [&] {
    std::unique_ptr<Stream> stream;
    const Status opened = Stream::open(device, &stream);
    if (!opened.ok()) return opened;
    stream->enter();
    *bytes = stream->free_bytes();
    return stream->take_status();
  });
}

int32_t measure(int32_t device, nc_cuda_limits* out, nc_cuda_status* status) {
  return report(status, [&] {
    Limits limits;
    const Status result = measure_limits(device, &limits);
    *out = {limits.read_bytes_per_second, limits.float32_flops_per_second, limits.bfloat16_flops_per_second};
    return result;
  });
}

int32_t load(int32_t device, const nc_cuda_config* config, int32_t is_bf16, const nc_cuda_source* source, nc_cuda_model** out, nc_cuda_status* status) {
  return report(status, [&] {
    auto model = std::make_unique<nc_cuda_model>();
    const Status result = load_model(device, config_of(*config), is_bf16 != 0, source_of(*source), &model->model);
    if (result.ok()) *out = model.release();
    return result;
  });
}

int64_t kv_bytes_per_token(const nc_cuda_model* model) { return model->model->slots()->heads * model->model->slots()->position_bytes; }

int32_t forward(nc_cuda_model* model, const nc_cuda_row* rows, int64_t count, float* out, const volatile uint8_t* cancelled, nc_cuda_status* status) {
  return report(status, [&] { return model->model->forward(batch_of(rows, count), out, cancelled); });
}

int32_t decode(nc_cuda_model* model, const nc_cuda_row* rows, const nc_cuda_draw* draws, int64_t count, const int32_t* pause_ids, int64_t pauses, int32_t* counts, int32_t* ids,
               const volatile uint8_t* cancelled, nc_cuda_status* status) {
  return report(status, [&] {
    if (count < 1 || count > kMostDecodeRows || pauses > kMostPauseIds) {
      return Status::error("ERR_INVALID_ARG", "Expected 1 to " + std::to_string(kMostDecodeRows) + " rows and at most " + std::to_string(kMostPauseIds) + " pause ids.");
    }
    std::vector<BatchRow> batch = batch_of(rows, count);
    std::vector<Draw> list;
    int steps = 0;
    for (int64_t r = 0; r < count; r++) {
      const nc_cuda_draw& d = draws[r];
      if (d.max_steps < 1 || d.max_steps > kMostSteps) return Status::error("ERR_INVALID_ARG", "Expected 1 to " + std::to_string(kMostSteps) + " steps.");
      batch[static_cast<size_t>(r)].logits = WantedLogits::last;
      list.push_back({d.temperature, d.top_k, d.seed_low, d.seed_high, d.stream, d.max_steps, 0, d.top_p, d.min_p});
      steps = std::max(steps, d.max_steps);
    }
    std::vector<std::vector<int32_t>> drawn;
    const Status result = model->model->decode(batch, list, std::vector<int32_t>(pause_ids, pause_ids + pauses), &drawn, cancelled);
    for (size_t r = 0; r < drawn.size(); r++) {
      counts[r] = static_cast<int32_t>(drawn[r].size());
      std::copy(drawn[r].begin(), drawn[r].end(), ids + r * static_cast<size_t>(steps));
    }
    return result;
  });
}

const nc_cuda_api api = {
    NC_CUDA_ABI, sizeof(nc_cuda_api), count_devices_call, describe_device_call, free_memory, measure, load,
    [](nc_cuda_model* model) { delete model; },
    [](const nc_cuda_model* model) { return model->model->memory_bytes(); },
    [](const nc_cuda_model* model) { return model->model->slots()->bytes_in_use.load(); },
    kv_bytes_per_token,
    [](nc_cuda_model* model) { return new nc_cuda_sequence{std::make_unique<Sequence>(model->model->slots())}; },
    [](const nc_cuda_sequence* sequence) { return new nc_cuda_sequence{sequence->sequence->fork()}; },
    [](nc_cuda_sequence* sequence, int64_t length) { sequence->sequence->truncate(length); },
    [](const nc_cuda_sequence* sequence) { return sequence->sequence->length(); },
    [](nc_cuda_sequence* sequence) { delete sequence; },
    forward, decode,
};

}  // namespace

}  // namespace cuda
}  // namespace nanochat

const nc_cuda_api* nc_cuda_get_api(void) { return &nanochat::cuda::api; }
