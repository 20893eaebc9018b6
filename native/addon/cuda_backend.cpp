#include "addon/cuda_backend.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "addon/cuda_library.h"

namespace nanochat {

namespace {

constexpr int64_t kRowsPerTask = 16;
constexpr int kStepsPerCall = 16;            // between two looks at the clock, at most
constexpr double kLeastMsPerStep = 1e-3;

using Clock = std::chrono::steady_clock;

double elapsed_ms(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

int64_t matrix_elements(const ModelConfig& c) {
  const int64_t C = c.n_embd;
  return c.vocab_size * C + c.n_layer * (c.qkv_dim() * C + C * C + 2 * c.mlp_hidden * C);
}

class CudaSequence final : public BackendSequence {
 public:
  CudaSequence(const nc_cuda_api* api, nc_cuda_sequence* sequence) : api_(api), sequence_(sequence) {}
  ~CudaSequence() override { api_->free_sequence(sequence_); }
  int64_t length() const override { return api_->length(sequence_); }
  std::unique_ptr<BackendSequence> fork() const override { return std::make_unique<CudaSequence>(api_, api_->fork(sequence_)); }
  void truncate(int64_t length) override { api_->truncate(sequence_, length); }
  nc_cuda_sequence* get() const { return sequence_; }

 private:
  const nc_cuda_api* api_;
  nc_cuda_sequence* sequence_;
};

class CudaBackend final : public BackendModel {
 public:
  CudaBackend(const nc_cuda_api* api, nc_cuda_model* model, ModelConfig config, bool is_narrow)
      : api_(api), model_(model), config_(std::move(config)), matrix_bytes_(matrix_elements(config_) * (is_narrow ? 2 : 4)) {}
  ~CudaBackend() override { api_->free_model(model_); }

  std::unique_ptr<BackendSequence> new_sequence() override { return std::make_unique<CudaSequence>(api_, api_->new_sequence(model_)); }

  Status forward(const std::vector<BackendRow>& batch, float* out, const std::atomic<bool>& cancelled) override {
    nc_cuda_status status = {};
    const auto rows = rows_of(batch);
    return api_->forward(model_, rows.data(), static_cast<int64_t>(rows.size()), out, flag(cancelled), &status) == 0 ? Status{} : cuda_status(status);
  }

  Status decode(const std::vector<BackendRow>& first, std::vector<Sampler>& samplers, const DecodeLimits& limits, const std::atomic<bool>& cancelled,
                std::vector<int32_t>* ids) override {
    std::vector<int64_t> lengths;
    for (const BackendRow& row : first) lengths.push_back(row.sequence->length());
    const Status status = run_steps(first, samplers, limits, cancelled, ids);
    if (!status.ok()) {
      for (size_t r = 0; r < first.size(); r++) first[r].sequence->truncate(lengths[r]);
    }
    return status;
  }

  int64_t pass_bytes(const std::vector<BackendRow>&) const override { return 0; }
  int64_t decode_bytes(const std::vector<BackendRow>&, int64_t) const override { return 0; }
  const ModelConfig& config() const override { return config_; }
  int64_t memory_bytes() const override { return api_->memory_bytes(model_); }
  int64_t matrix_bytes() const override { return matrix_bytes_; }
  int64_t cache_bytes() const override { return api_->cache_bytes(model_); }
  int64_t kv_bytes_per_token() const override { return api_->kv_bytes_per_token(model_); }
  const char* isa() const override { return "cuda"; }

 private:
  // The device runs each row to its end; tokens beyond the first step with a pause id are dropped, as rows go on together.
  Status run_steps(std::vector<BackendRow> rows, const std::vector<Sampler>& samplers, const DecodeLimits& limits, const std::atomic<bool>& cancelled, std::vector<int32_t>* ids) {
    std::vector<nc_cuda_draw> draws;
    for (const Sampler& sampler : samplers) {
      const SamplingParams& p = sampler.params();
      if (p.repetition_penalty != 1 || !p.logit_bias.empty()) return Status::error("ERR_INVALID_ARG", "The device draws without penalty and bias.");
      draws.push_back({p.top_p, p.min_p, static_cast<float>(p.temperature), static_cast<int32_t>(std::min<int64_t>(p.top_k, config_.vocab_size)), static_cast<uint32_t>(p.seed),
                       static_cast<uint32_t>(p.seed >> 32), static_cast<int32_t>(sampler.row()), 1});
    }
    const size_t B = rows.size();
    const auto start = Clock::now();
    std::vector<int32_t> last(B);
    for (int64_t done = 0; done < limits.max_steps;) {
      const double left_ms = limits.budget_ms - elapsed_ms(start);
      const int64_t steps = std::min(limits.max_steps - done, left_ms <= 0 ? 1 : static_cast<int64_t>(std::min(std::ceil(left_ms / ms_per_step_), double{kStepsPerCall})));
      for (nc_cuda_draw& draw : draws) draw.max_steps = static_cast<int32_t>(steps);
      std::vector<int32_t> counts(B), drawn(B * static_cast<size_t>(steps));  // drawn: (rows, steps)
      const auto list = rows_of(rows);
      nc_cuda_status status = {};
      const auto call_start = Clock::now();
      if (api_->decode(model_, list.data(), draws.data(), static_cast<int64_t>(B), limits.pause_ids.data(), static_cast<int64_t>(limits.pause_ids.size()), counts.data(), drawn.data(),
                       flag(cancelled), &status) != 0) {
        return cuda_status(status);
      }
      ms_per_step_ = std::max(elapsed_ms(call_start) / static_cast<double>(steps), kLeastMsPerStep);
      const int64_t common = *std::min_element(counts.begin(), counts.end());
      for (int64_t s = 0; s < common; s++) {
        for (size_t r = 0; r < B; r++) ids->push_back(drawn[r * static_cast<size_t>(steps) + static_cast<size_t>(s)]);
      }
      for (size_t r = 0; r < B; r++) {
        if (counts[r] > common) rows[r].sequence->truncate(rows[r].sequence->length() - (counts[r] - common));
      }
      std::copy(ids->end() - static_cast<std::ptrdiff_t>(B), ids->end(), last.begin());
      const auto pauses = [&](int32_t id) { return std::find(limits.pause_ids.begin(), limits.pause_ids.end(), id) != limits.pause_ids.end(); };
      done += common;
      if (std::any_of(last.begin(), last.end(), pauses) || elapsed_ms(start) >= limits.budget_ms) break;
      for (size_t r = 0; r < B; r++) rows[r] = {rows[r].sequence, &last[r], 1, WantedLogits::last};
    }
    return {};
  }

  static std::vector<nc_cuda_row> rows_of(const std::vector<BackendRow>& batch) {
    std::vector<nc_cuda_row> rows;
    for (const BackendRow& row : batch) rows.push_back({static_cast<const CudaSequence*>(row.sequence)->get(), row.tokens, row.count, static_cast<int32_t>(row.logits)});
    return rows;
  }

  // note: an atomic bool is one byte that other threads set; the library only looks at it.
  static const volatile uint8_t* flag(const std::atomic<bool>& cancelled) {
    static_assert(sizeof(std::atomic<bool>) == 1, "a byte");
    return reinterpret_cast<const volatile uint8_t*>(&cancelled);
  }

  const nc_cuda_api* api_;
  nc_cuda_model* model_;
  ModelConfig config_;
  int64_t matrix_bytes_;
  double ms_per_step_ = kLeastMsPerStep;  // of the last decode
};

struct Reader {
  const TensorSource& source;
  const LoadContext& context;
};

int32_t is_bf16(void* user, const char* name, int64_t rows, int64_t columns) {
  StoredTensor tensor;
  return static_cast<const Reader*>(user)->source.find(name, rows, columns, &tensor).ok() && tensor.type == StoredType::b16;
}

int32_t read(void* user, const char* name, int64_t rows, int64_t columns, int64_t from, int64_t count, float* out, nc_cuda_status* status) {
  const Reader& reader = *static_cast<const Reader*>(user);
  StoredTensor tensor;
  const Status found = reader.source.find(name, rows, columns, &tensor);
  if (!found.ok()) {
    std::strncpy(status->code, found.code, sizeof status->code - 1);
    std::strncpy(status->message, found.message.c_str(), sizeof status->message - 1);
    return 1;
  }
  reader.context.pool->run((count + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    for (int64_t r = task * kRowsPerTask; r < std::min(count, (task + 1) * kRowsPerTask); r++) tensor.read_row(from + r, out + r * columns);
  });
  tensor.release_rows(from, from + count);
  return 0;
}

int32_t progress(void* user, int64_t bytes, int64_t total) {
  const Reader& reader = *static_cast<const Reader*>(user);
  if (reader.context.on_progress) reader.context.on_progress(bytes, total);
  return *reader.context.cancelled ? 1 : 0;
}

}  // namespace

Status cuda_status(const nc_cuda_status& status) {  // note: with a code that lives on
  for (const char* code : {"ERR_ABORTED", "ERR_CHECKPOINT_ARCH", "ERR_CHECKPOINT_FORMAT", "ERR_DEVICE_UNAVAILABLE", "ERR_INVALID_ARG", "ERR_OUT_OF_MEMORY"}) {
    if (std::strcmp(status.code, code) == 0) return Status::error(code, status.message);
  }
  return Status::error("ERR_CUDA", status.message);
}

Status load_cuda_model(int device, const ModelConfig& c, bool is_narrow, const TensorSource& source, const LoadContext& context, std::unique_ptr<BackendModel>* model) {
  const CudaLibrary& library = cuda_library();
  if (!library.status.ok()) return library.status;
  const nc_cuda_config config = {c.sequence_len, c.vocab_size, c.n_layer, c.n_head, c.n_kv_head, c.n_embd, c.head_dim, c.mlp_hidden, c.windows.data(), c.softcap, c.rope_base,
                                 c.norm_eps, c.qk_scale, c.ve_gate_scale, c.rope_table_bf16, c.has_lambdas, c.has_smear, c.ve_gate_channels};
  Reader reader{source, context};
  const nc_cuda_source callbacks = {&reader, is_bf16, read, progress};
  nc_cuda_model* loaded = nullptr;
  nc_cuda_status status = {};
  if (library.api->load(device, &config, is_narrow, &callbacks, &loaded, &status) != 0) return cuda_status(status);
  *model = std::make_unique<CudaBackend>(library.api, loaded, c, is_narrow);
  return {};
}

}  // namespace nanochat
