// What the addon asks of a backend: a model, its sequences, a pass over a ragged batch (lib/backend.ts).
#pragma once
#include <atomic>
#include <memory>
#include <vector>

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

// How a row draws its tokens where the backend does it, MODEL.md 5.
struct BackendDraw {
  float temperature = 0;  // 0: argmax
  int32_t top_k = 0;      // 0: all
  uint64_t seed = 0;
  int32_t row = 0, max_steps = 1;
};

class BackendModel {
 public:
  virtual ~BackendModel() = default;
  virtual std::unique_ptr<BackendSequence> new_sequence() = 0;
  // Appends every row's tokens and writes the wanted logits to `out`, (n, V) in row order. When it fails or `cancelled`
  // becomes true the sequences are as they were.
  virtual Status forward(const std::vector<BackendRow>& batch, float* out, const std::atomic<bool>& cancelled) = 0;
  // Appends, draws and appends again; `drawn` gets each row's tokens, the last of which is not appended.
  virtual Status decode(const std::vector<BackendRow>& batch, const std::vector<BackendDraw>& draws, const std::vector<int32_t>& pause_ids,
                        std::vector<std::vector<int32_t>>* drawn, const std::atomic<bool>& cancelled) = 0;
  virtual bool draws_tokens() const = 0;                                  // decode works
  virtual int64_t pass_bytes(const std::vector<BackendRow>& batch) const = 0;  // of the host's memory, that such a pass allocates
  virtual const ModelConfig& config() const = 0;
  virtual int64_t memory_bytes() const = 0;        // weights and tables
  virtual int64_t cache_bytes() const = 0;         // keys and values of all sequences
  virtual int64_t kv_bytes_per_token() const = 0;
  virtual const char* isa() const = 0;
};

std::unique_ptr<BackendModel> cpu_backend(std::unique_ptr<CpuModel> model);

}  // namespace nanochat
