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
  explicit CpuBackend(std::unique_ptr<CpuModel> model) : model_(std::move(model)) {}
  std::unique_ptr<BackendSequence> new_sequence() override { return std::make_unique<CpuBackendSequence>(std::make_unique<Sequence>(model_->page_pool())); }
  Status forward(const std::vector<BackendRow>& batch, float* out, const std::atomic<bool>& cancelled) override { return model_->forward(rows_of(batch), out, cancelled); }
  Status decode(const std::vector<BackendRow>&, const std::vector<BackendDraw>&, const std::vector<int32_t>&, std::vector<std::vector<int32_t>>*,
                const std::atomic<bool>&) override {
    return Status::error("ERR_INVALID_ARG", "The CPU backend leaves drawing tokens to JavaScript.");
  }
  bool draws_tokens() const override { return false; }
  int64_t pass_bytes(const std::vector<BackendRow>& batch) const override { return model_->pass_bytes(rows_of(batch)); }
  const ModelConfig& config() const override { return model_->config(); }
  int64_t memory_bytes() const override { return model_->memory_bytes(); }
  int64_t cache_bytes() const override { return model_->page_pool()->bytes_in_use(); }
  int64_t kv_bytes_per_token() const override { return static_cast<int64_t>(model_->page_pool()->page_bytes()) / kPage; }
  const char* isa() const override { return model_->isa(); }

 private:
  static std::vector<BatchRow> rows_of(const std::vector<BackendRow>& batch) {
    std::vector<BatchRow> rows;
    for (const BackendRow& row : batch) rows.push_back({static_cast<const CpuBackendSequence*>(row.sequence)->get(), row.tokens, row.count, row.logits});
    return rows;
  }

  std::unique_ptr<CpuModel> model_;
};

}  // namespace

std::unique_ptr<BackendModel> cpu_backend(std::unique_ptr<CpuModel> model) { return std::make_unique<CpuBackend>(std::move(model)); }

}  // namespace nanochat
