#include "addon/cuda_backend.h"

#include <cstring>

#include "addon/cuda_library.h"

namespace nanochat {

namespace {

constexpr int64_t kRowsPerTask = 16;

// The library's answer as the addon's status, with a code that lives on.
Status status_of(const nc_cuda_status& status) {
  for (const char* code : {"ERR_ABORTED", "ERR_CHECKPOINT_ARCH", "ERR_CHECKPOINT_FORMAT", "ERR_DEVICE_UNAVAILABLE", "ERR_INVALID_ARG", "ERR_OUT_OF_MEMORY"}) {
    if (std::strcmp(status.code, code) == 0) return Status::error(code, status.message);
  }
  return Status::error("ERR_CUDA", status.message);
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
  CudaBackend(const nc_cuda_api* api, nc_cuda_model* model, ModelConfig config) : api_(api), model_(model), config_(std::move(config)) {}
  ~CudaBackend() override { api_->free_model(model_); }

  std::unique_ptr<BackendSequence> new_sequence() override { return std::make_unique<CudaSequence>(api_, api_->new_sequence(model_)); }

  Status forward(const std::vector<BackendRow>& batch, float* out, const std::atomic<bool>& cancelled) override {
    nc_cuda_status status = {};
    const auto rows = rows_of(batch);
    return api_->forward(model_, rows.data(), static_cast<int64_t>(rows.size()), out, flag(cancelled), &status) == 0 ? Status{} : status_of(status);
  }

  Status decode(const std::vector<BackendRow>& batch, const std::vector<BackendDraw>& draws, const std::vector<int32_t>& pause_ids, std::vector<std::vector<int32_t>>* drawn,
                const std::atomic<bool>& cancelled) override {
    nc_cuda_status status = {};
    const auto rows = rows_of(batch);
    std::vector<nc_cuda_draw> list;
    int32_t steps = 0;
    for (const BackendDraw& d : draws) {
      list.push_back({d.temperature, d.top_k, static_cast<uint32_t>(d.seed), static_cast<uint32_t>(d.seed >> 32), d.row, d.max_steps});
      steps = std::max(steps, d.max_steps);
    }
    std::vector<int32_t> counts(rows.size()), ids(rows.size() * static_cast<size_t>(steps));
    if (api_->decode(model_, rows.data(), list.data(), static_cast<int64_t>(rows.size()), pause_ids.data(), static_cast<int64_t>(pause_ids.size()), counts.data(), ids.data(),
                     flag(cancelled), &status) != 0) {
      return status_of(status);
    }
    drawn->clear();
    for (size_t r = 0; r < rows.size(); r++) {
      const auto first = ids.begin() + static_cast<std::ptrdiff_t>(r * static_cast<size_t>(steps));
      drawn->emplace_back(first, first + counts[r]);
    }
    return {};
  }

  bool draws_tokens() const override { return true; }
  int64_t pass_bytes(const std::vector<BackendRow>&) const override { return 0; }
  const ModelConfig& config() const override { return config_; }
  int64_t memory_bytes() const override { return api_->memory_bytes(model_); }
  int64_t cache_bytes() const override { return api_->cache_bytes(model_); }
  int64_t kv_bytes_per_token() const override { return api_->kv_bytes_per_token(model_); }
  const char* isa() const override { return "cuda"; }

 private:
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

Status load_cuda_model(int device, const ModelConfig& c, bool is_narrow, const TensorSource& source, const LoadContext& context, std::unique_ptr<BackendModel>* model) {
  const CudaLibrary& library = cuda_library();
  if (!library.status.ok()) return library.status;
  const nc_cuda_config config = {c.sequence_len, c.vocab_size, c.n_layer, c.n_head, c.n_kv_head, c.n_embd, c.head_dim, c.mlp_hidden, c.windows.data(), c.softcap, c.rope_base,
                                 c.norm_eps, c.qk_scale, c.ve_gate_scale, c.rope_table_bf16, c.has_lambdas, c.has_smear, c.ve_gate_channels};
  Reader reader{source, context};
  const nc_cuda_source callbacks = {&reader, is_bf16, read, progress};
  nc_cuda_model* loaded = nullptr;
  nc_cuda_status status = {};
  if (library.api->load(device, &config, is_narrow, &callbacks, &loaded, &status) != 0) return status_of(status);
  *model = std::make_unique<CudaBackend>(library.api, loaded, c);
  return {};
}

}  // namespace nanochat
