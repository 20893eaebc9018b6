// A model on the CPU: its weights and the forward pass over a ragged batch.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/sequence.h"
#include "cpu/thread_pool.h"
#include "cpu/weights.h"
#include "model/config.h"
#include "model/status.h"

namespace nanochat {

enum class WantedLogits : uint8_t { none, last, all };

// One row of a batch: tokens to append to a sequence.
struct BatchRow {
  Sequence* sequence = nullptr;
  const int32_t* tokens = nullptr;  // (count)
  int64_t count = 0;
  WantedLogits logits = WantedLogits::last;
};

class CpuModel {
 public:
  virtual ~CpuModel() = default;
  // Appends every row's tokens to its sequence and writes the wanted logits to `out`, (n, V) in row order. When it
  // fails or `cancelled` becomes true the sequences are as they were.
  virtual Status forward(const std::vector<BatchRow>& batch, float* out, const std::atomic<bool>& cancelled) = 0;

  // Bytes that such a pass allocates: activations beyond those of earlier passes, and pages of the KV cache.
  virtual int64_t pass_bytes(const std::vector<BatchRow>& batch) const = 0;

  virtual const Weights& weights() const = 0;

  const ModelConfig& config() const { return config_; }
  const std::shared_ptr<PagePool>& page_pool() const { return page_pool_; }
  int64_t memory_bytes() const { return memory_bytes_; }
  // Bytes of the matrices, which a decoding step reads once for all rows.
  int64_t matrix_bytes() const { return matrix_bytes_; }
  const char* isa() const { return kernels_->isa; }

 protected:
  CpuModel(ModelConfig config, const Kernels* kernels, ThreadPool* pool) : config_(std::move(config)), kernels_(kernels), pool_(pool) {}

  ModelConfig config_;
  const Kernels* kernels_;
  ThreadPool* pool_;
  std::shared_ptr<PagePool> page_pool_;
  int64_t memory_bytes_ = 0, matrix_bytes_ = 0;
};

// Loads a model. `pool` must outlive it.
Status load_cpu_model(const ModelConfig& config, ComputeType type, const TensorSource& source, const Kernels* kernels,
                      const LoadContext& context, std::unique_ptr<CpuModel>* model);

}  // namespace nanochat
