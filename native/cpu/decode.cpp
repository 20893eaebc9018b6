#include "cpu/decode.h"

#include <algorithm>
#include <chrono>
#include <new>

namespace nanochat {

namespace {

using Clock = std::chrono::steady_clock;

Status run_steps(CpuModel& model, ThreadPool& pool, std::vector<BatchRow> rows, std::vector<Sampler>& samplers, const DecodeLimits& limits,
                 std::vector<float>& logits, const std::atomic<bool>& cancelled, std::vector<int32_t>* ids) {
  const auto end = Clock::now() + std::chrono::duration<double, std::milli>(limits.budget_ms);
  const int64_t B = static_cast<int64_t>(rows.size()), V = model.config().vocab_size;
  if (static_cast<int64_t>(logits.size()) < B * V) logits.resize(static_cast<size_t>(B * V));
  std::vector<int32_t> drawn(static_cast<size_t>(B));
  for (int64_t step = 0; step < limits.max_steps; step++) {
    const Status status = model.forward(rows, logits.data(), cancelled);
    if (!status.ok()) return status;
    pool.run(B, [&](int64_t r) {
      drawn[r] = samplers[r].sample(logits.data() + r * V, rows[r].sequence->length());
      samplers[r].observe(drawn[r]);
    });
    ids->insert(ids->end(), drawn.begin(), drawn.end());
    const auto pauses = [&](int32_t id) { return std::find(limits.pause_ids.begin(), limits.pause_ids.end(), id) != limits.pause_ids.end(); };
    if (std::any_of(drawn.begin(), drawn.end(), pauses) || Clock::now() >= end) break;
    for (int64_t r = 0; r < B; r++) rows[r] = {rows[r].sequence, &drawn[r], 1, WantedLogits::last};
  }
  return {};
}

}  // namespace

Status decode(CpuModel& model, ThreadPool& pool, const std::vector<BatchRow>& first, std::vector<Sampler>& samplers, const DecodeLimits& limits,
              std::vector<float>& logits, const std::atomic<bool>& cancelled, std::vector<int32_t>* ids) {
  std::vector<int64_t> lengths;
  for (const BatchRow& row : first) lengths.push_back(row.sequence->length());
  Status status;
  try {
    status = run_steps(model, pool, first, samplers, limits, logits, cancelled, ids);
  } catch (const std::bad_alloc&) {
    status = Status::error("ERR_OUT_OF_MEMORY", "Not enough memory for the logits of this pass. Use fewer rows.");
  }
  if (!status.ok()) {
    for (size_t r = 0; r < first.size(); r++) first[r].sequence->truncate(lengths[r]);
  }
  return status;
}

}  // namespace nanochat
