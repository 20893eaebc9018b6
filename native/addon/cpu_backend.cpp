#include "addon/backend.h"

namespace nanochat {

namespace {

class CpuBackendSequence final : public BackendSequence {
 public:
  explicit CpuBackendSequence(std::unique_ptr<Sequence> sequence) : sequence_(std::move(sequence)) {}
  int64_t length() const override { return sequence_->length(); }
  std::unique_ptr<BackendSequence> fork() const override { return std::make_unique<CpuBackendSequence>(sequence_->fork()); }
  void truncate(int64_t length) override { sequence_->truncate(length); }
  Sequence* get() const { return sequence_.get(); }

 private:
  std::unique_ptr<Sequence> sequence_;
};

class CpuBackend final : public BackendModel {
 public:
  CpuBackend(std::unique_ptr<CpuModel> model, ThreadPool* pool) : model_(std::move(model)), pool_(pool) {}
  std::unique_ptr<BackendSequence> new_sequence() override { return std::make_unique<CpuBackendSequence>(std::make_unique<Sequence>(model_->page_pool())); }
  Status forward(const std::vector<BackendRow>& batch, float* out, const std::atomic<bool>& cancelled) override { return model_->forward(rows_of(batch), out, cancelled); }
  Status decode(const std::vector<BackendRow>& first, std::vector<Sampler>& samplers, const DecodeLimits& limits, const std::atomic<bool>& cancelled,
                std::vector<int32_t>* ids) override {
    return nanochat::decode(*model_, *pool_, rows_of(first), samplers, limits, logits_, cancelled, ids);
  }
  int64_t pass_bytes(const std::vector<BackendRow>& batch) const override { return model_->pass_bytes(rows_of(batch)); }
  int64_t decode_bytes(const std::vector<BackendRow>& first, int64_t max_steps) const override {
    const std::vector<BatchRow> rows = rows_of(first);
    int64_t more_pages = 0;  // than the first pass takes
    for (const BatchRow& row : rows) {
      const int64_t length = row.sequence->length() + row.count;
      more_pages += pages_of(length + max_steps - 1) - pages_of(length);
    }
    const int64_t logits_bytes = static_cast<int64_t>(first.size()) * model_->config().vocab_size * static_cast<int64_t>(sizeof(float));
    return model_->pass_bytes(rows) + more_pages * static_cast<int64_t>(model_->page_pool()->page_bytes()) + logits_bytes;
  }
  const ModelConfig& config() const override { return model_->config(); }
  int64_t memory_bytes() const override { return model_->memory_bytes(); }
  int64_t matrix_bytes() const override { return model_->matrix_bytes(); }
  int64_t cache_bytes() const override { return model_->page_pool()->bytes_in_use(); }
  int64_t kv_bytes_per_token() const override { return static_cast<int64_t>(model_->page_pool()->page_bytes()) / kPage; }
  const char* isa() const override { return model_->isa(); }
  const CpuModel* cpu_model() const override { return model_.get(); }

 private:
  static std::vector<BatchRow> rows_of(const std::vector<BackendRow>& batch) {
    std::vector<BatchRow> rows;
    for (const BackendRow& row : batch) rows.push_back({static_cast<const CpuBackendSequence*>(row.sequence)->get(), row.tokens, row.count, row.logits});
    return rows;
  }

  std::unique_ptr<CpuModel> model_;
  ThreadPool* pool_;
  std::vector<float> logits_;  // of decode
};

}  // namespace

std::unique_ptr<BackendModel> cpu_backend(std::unique_ptr<CpuModel> model, ThreadPool* pool) { return std::make_unique<CpuBackend>(std::move(model), pool); }

}  // namespace nanochat
