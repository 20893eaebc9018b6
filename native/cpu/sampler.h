// Draws a row's next token from its logits (MODEL.md 5): equal logits give the token that lib/sampling.ts draws.
#pragma once
#include <cstdint>
#include <vector>

namespace nanochat {

struct LogitBias {
  int32_t id;
  float bias;
};

// Checked options, with the meanings and defaults of lib/sampling.ts.
struct SamplingParams {
  double temperature = 1;         // 0: argmax
  int64_t top_k = 0;              // 0: off
  double top_p = 1, min_p = 0;    // 1, 0: off
  double repetition_penalty = 1;  // 1: off
  uint64_t seed = 0;
  std::vector<LogitBias> logit_bias;
};

// How one row draws. V is the length of the logits.
class Sampler {
 public:
  // seen: the ids of the row so far, each once; of use to the repetition penalty only.
  Sampler(SamplingParams params, uint32_t row, std::vector<int32_t> seen, int vocab_size)
      : params_(std::move(params)), row_(row), V_(vocab_size), seen_(std::move(seen)) {}

  // The token for absolute index `position`. `logits` (V) are overwritten.
  int32_t sample(float* logits, int64_t position);

  // Tells the repetition penalty that `id` is now part of the row.
  void observe(int32_t id);

  const SamplingParams& params() const { return params_; }
  uint32_t row() const { return row_; }

 private:
  void add_bias_and_penalty(float* logits) const;
  void divide_by_temperature(float* logits);
  int32_t argmax(const float* logits);
  int64_t largest(const float* values, int64_t k);
  int64_t nucleus(int64_t count, const float* values, float max, double total, double before) const;
  uint64_t last_key_of_nucleus(const float* values, float max);
  int32_t draw_from_keys(int64_t count, const float* values, int32_t likeliest, uint32_t position) const;
  int32_t draw_from_all(const float* values, int32_t likeliest, uint64_t last_key, uint32_t position) const;
  void draw_words(int32_t first_id, uint32_t position, uint32_t* words) const;

  SamplingParams params_;
  uint32_t row_;
  int V_;
  std::vector<int32_t> seen_;
  std::vector<float> block_max_;  // (V / 64), the largest value of each 64 ids
  std::vector<uint64_t> keys_;    // candidates, see key_of
};

}  // namespace nanochat
