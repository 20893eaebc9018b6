// Several steps of decoding without JavaScript in between: passes and draws, as lib/decode.ts specifies them.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "cpu/forward.h"
#include "cpu/sampler.h"

namespace nanochat {

struct DecodeLimits {
  std::vector<int32_t> pause_ids;
  int64_t max_steps = 1;
  double budget_ms = 0;
};

// Draws one token per step for every row of `first`, the tokens of the first pass, until one of them is a pause id, for
// max_steps steps, or to the end of the step that passes budget_ms. Appends them to `ids`, (steps, rows); the last step's
// are not in the sequences. `samplers` go with the rows; `logits` is scratch. When it fails or `cancelled` becomes true,
// the sequences are as they were.
Status decode(CpuModel& model, ThreadPool& pool, const std::vector<BatchRow>& first, std::vector<Sampler>& samplers, const DecodeLimits& limits,
              std::vector<float>& logits, const std::atomic<bool>& cancelled, std::vector<int32_t>* ids);

}  // namespace nanochat
