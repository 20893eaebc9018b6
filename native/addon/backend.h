// What the addon asks of a backend: a model, its sequences, a pass over a ragged batch (lib/backend.ts).
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "cpu/decode.h"
#include "cpu/forward.h"
#include "model/config.h"
#include "model/status.h"

namespace nanochat {

class BackendSequence {
 public:
  virtual ~BackendSequence() = default;
  virtual int64_t length() const = 0;
  virtual std::unique_ptr<BackendSequence> fork() const = 0;
  virtual void truncate(int64_t length) = 0;
};

// One row of a batch: tokens to append to a sequence.
struct BackendRow {
  BackendSequence* sequence = nullptr;
  const int32_t* tokens = nullptr;  // (count)
  int64_t count = 0;
  WantedLogits logits = WantedLogits::last;
};

class BackendModel {
 public:
  virtual ~BackendModel() = default;
  virtual std::unique_ptr<BackendSequence> new_sequence() = 0;
  // Appends every row's tokens and writes the wanted logits to `out`, (n, V) in row order. When it fails or `cancelled`
  // becomes true the sequences are as they were.
  virtual Status forward(const std::vector<BackendRow>& batch, float* out, const std::atomic<bool>& cancelled) = 0;
  // What cpu/decode.h says of decode: `ids` gets (steps, rows).
  virtual Status decode(const std::vector<BackendRow>& first, std::vector<Sampler>& samplers, const DecodeLimits& limits, const std::atomic<bool>& cancelled,
                        std::vector<int32_t>* ids) = 0;
  // Of the host's memory, that such a pass or decoding allocates.
  virtual int64_t pass_bytes(const std::vector<BackendRow>& batch) const = 0;
  virtual int64_t decode_bytes(const std::vector<BackendRow>& first, int64_t max_steps) const = 0;
  virtual const ModelConfig& config() const = 0;
  virtual int64_t memory_bytes() const = 0;        // weights and tables
  virtual int64_t matrix_bytes() const = 0;        // of these, what a decoding step reads once for all rows
  virtual int64_t cache_bytes() const = 0;         // keys and values of all sequences
  virtual int64_t kv_bytes_per_token() const = 0;
  virtual const char* isa() const = 0;
  virtual const CpuModel* cpu_model() const { return nullptr; }  // null: not on the CPU
};

// `pool` must outlive it.
std::unique_ptr<BackendModel> cpu_backend(std::unique_ptr<CpuModel> model, ThreadPool* pool);

}  // namespace nanochat
