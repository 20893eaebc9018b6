// A model on a device: its weights and the forward pass over a ragged batch.
#pragma once
#include <memory>
#include <vector>

#include "cuda/sequence.h"
#include "cuda/weights.h"
#include "model/config.h"

namespace nanochat {
namespace cuda {

enum class WantedLogits { none, last, all };

// One row of a batch: tokens to append to a sequence.
struct BatchRow {
  Sequence* sequence = nullptr;
  const int32_t* tokens = nullptr;  // (count)
  int64_t count = 0;
  WantedLogits logits = WantedLogits::last;
};

constexpr int kMostDecodeRows = 256, kMostSteps = 64, kMostPauseIds = 63;

class Model {
 public:
  virtual ~Model() = default;
  // Appends every row's tokens to its sequence and writes the wanted logits to `out`, (n, V) in row order. When it fails or
  // `cancelled` becomes true the sequences are as they were.
  virtual Status forward(const std::vector<BatchRow>& batch, float* out, const volatile uint8_t* cancelled) = 0;

  // Appends, draws and appends again, without the host in between; `drawn` gets each row's tokens. At most
  // kMostDecodeRows rows and kMostSteps steps.
  virtual Status decode(const std::vector<BatchRow>& batch, std::vector<Draw> draws, const std::vector<int32_t>& pause_ids, std::vector<std::vector<int32_t>>* drawn,
                        const volatile uint8_t* cancelled) = 0;

  // Whether a step of one row is one kernel (decode_step.cu), where it fits on the device. Off at first: it is not timed yet.
  void set_persistent(bool is_persistent) { is_persistent_ = is_persistent; }
  bool was_persistent() const { return was_persistent_; }  // the last step that was launched or captured

  const ModelConfig& config() const { return config_; }
  int64_t memory_bytes() const { return memory_bytes_; }
  const std::shared_ptr<SlotShape>& slots() const { return slots_; }

 protected:
  ModelConfig config_;
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<SlotShape> slots_;
  int64_t memory_bytes_ = 0;
  bool is_persistent_ = false, was_persistent_ = false;
};

Status load_model(int device, const ModelConfig& config, bool is_bf16, const Source& source, std::unique_ptr<Model>* model);

}  // namespace cuda
}  // namespace nanochat
