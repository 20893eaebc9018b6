// Values and sums are float32 and float64 where lib/sampling.ts has them so. exp and log differ from JavaScript's in the last
// bit of a float64 now and then, which a token sees only at the very edge of top-p or min-p, or between two ids one bit apart.
// Work: V = 32768 is read once for the largest of each 64 ids, and only blocks that can matter are looked into. What is
// left is bound by Philox, whose words every block needs that is not far below the likeliest id.
#include "cpu/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/philox.h"

namespace nanochat {

namespace {

constexpr int kBlock = 4 * kPhiloxBlocks;  // ids whose words one call of philox draws
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kStepsPerUnit = 4;
constexpr int kBucketsPerUnit = 8, kBuckets = 40 * kBucketsPerUnit;

// -ln(-ln u), u in the middle of the word's 2^-32
float gumbel_of(uint32_t word) { return static_cast<float>(-std::log(-std::log((word + 0.5) * 0x1p-32))); }

// The largest g, and words below which g is under k / kStepsPerUnit, less 2 for the rounding of that line.
struct GumbelTable {
  float max = gumbel_of(0xffffffffu);
  std::vector<uint32_t> smallest_word;
  GumbelTable() {
    for (int k = 0; k <= std::ceil(max * kStepsPerUnit); k++) {
      const double word = std::floor(0x1p32 * std::exp(-std::exp(-static_cast<double>(k) / kStepsPerUnit))) - 2;
      smallest_word.push_back(static_cast<uint32_t>(word));
    }
  }
};

const GumbelTable& gumbel_table() {
  static const GumbelTable table;
  return table;
}

// How far a value is below the largest; not so far that e to it is no normal number.
double below(float value, float max) { return std::max(-708.0, static_cast<double>(value) - max); }

// e^x for x from -708 to 0, off by 2^-52 of it at most. note: no branch and no call, so that a loop over it runs in vectors
inline double exp_of(double x) {
  constexpr double kLog2E = 1.4426950408889634, kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33, kToInteger = 0x1.8p52;
  const double shifted = x * kLog2E + kToInteger;  // the integer is in its low bits
  const double k = shifted - kToInteger;
  const double r = (x - k * kLn2High) - k * kLn2Low;
  // Taylor to r^13 / 13!, with |r| < 0.35
  const double tail = ((((1.0 / 6227020800 * r + 1.0 / 479001600) * r + 1.0 / 39916800) * r + 1.0 / 3628800) * r + 1.0 / 362880) * r + 1.0 / 40320;
  const double sum = (((((((tail * r + 1.0 / 5040) * r + 1.0 / 720) * r + 1.0 / 120) * r + 1.0 / 24) * r + 1.0 / 6) * r + 0.5) * r + 1) * r + 1;
  uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 52) + 0x3ff0000000000000u;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

// Sorts ascending by (value descending, id ascending).
uint64_t key_of(float value, int32_t id) {
  value += 0.0f;  // note: -0 becomes 0, they are equal
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~ascending) << 32 | static_cast<uint32_t>(id);
}

int32_t id_of(uint64_t key) { return static_cast<int32_t>(key & 0xffffffffu); }

// NaN counts as nothing.
float largest_of(const float* values, int count) {
  float lanes[16];
  std::fill_n(lanes, 16, -kInfinity);
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int j = 0; j < 16; j++) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  }
  for (; i < count; i++) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  for (int j = 1; j < 16; j++) lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0];
  return lanes[0];
}

int bucket_of(float value, float max) {
  const double distance = (static_cast<double>(max) - value) * kBucketsPerUnit;
  return distance < kBuckets - 1 ? static_cast<int>(distance) : kBuckets - 1;
}

// value + g below best less this loses whatever float32 rounding adds.
float rounding_margin(float best) { return 1e-5f + std::fabs(best) * 0x1p-22f; }

}  // namespace

void Sampler::observe(int32_t id) {
  if (params_.repetition_penalty == 1) return;
  if (std::find(seen_.begin(), seen_.end(), id) == seen_.end()) seen_.push_back(id);
}

int32_t Sampler::sample(float* logits, int64_t position) {
  add_bias_and_penalty(logits);
  const int32_t likeliest = argmax(logits);
  if (params_.temperature == 0) return likeliest;
  divide_by_temperature(logits);
  const float* values = logits;
  const float max = values[likeliest];
  if (max == -kInfinity) return likeliest;
  const uint32_t position32 = static_cast<uint32_t>(position);
  if (params_.top_k > 0 && params_.top_k < V_) {
    int64_t count = largest(values, params_.top_k);
    if (params_.top_p < 1) {
      double total = 0;
      for (int64_t i = 0; i < count; i++) total += exp_of(below(values[id_of(keys_[i])], max));
      count = nucleus(count, values, max, total, 0);
    }
    return draw_from_keys(count, values, likeliest, position32);
  }
  return draw_from_all(values, likeliest, params_.top_p < 1 ? last_key_of_nucleus(values, max) : UINT64_MAX, position32);
}

void Sampler::add_bias_and_penalty(float* logits) const {
  for (const LogitBias& entry : params_.logit_bias) logits[entry.id] += entry.bias;
  if (params_.repetition_penalty == 1) return;
  const float penalty = static_cast<float>(params_.repetition_penalty);
  for (const int32_t id : seen_) logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
}

// The lower id of equals. Fills block_max_.
int32_t Sampler::argmax(const float* logits) {
  block_max_.resize((V_ + kBlock - 1) / kBlock);
  float max = -kInfinity;
  size_t best = 0;
  for (size_t b = 0; b < block_max_.size(); b++) {
    const int first = static_cast<int>(b) * kBlock;
    block_max_[b] = largest_of(logits + first, std::min(kBlock, V_ - first));
    if (block_max_[b] > max) {
      max = block_max_[b];
      best = b;
    }
  }
  if (max == -kInfinity) return 0;
  int32_t id = static_cast<int32_t>(best) * kBlock;
  while (logits[id] != max) id++;
  return id;
}

void Sampler::divide_by_temperature(float* logits) {
  if (params_.temperature == 1) return;
  const float divisor = static_cast<float>(params_.temperature);
  for (int i = 0; i < V_; i++) logits[i] /= divisor;
  for (float& value : block_max_) value /= divisor;
}

// Writes the k largest values to keys_, sorted: a heap of the best so far, its root the worst of them.
int64_t Sampler::largest(const float* values, int64_t k) {
  keys_.resize(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; i++) keys_[i] = key_of(values[i], static_cast<int32_t>(i));
  std::make_heap(keys_.begin(), keys_.end());
  float worst = values[id_of(keys_.front())];
  for (int64_t id = k; id < V_; id++) {
    if (id % kBlock == 0 && !(block_max_[id / kBlock] > worst)) {
      id += kBlock - 1;
      continue;
    }
    if (!(values[id] > worst)) continue;
    std::pop_heap(keys_.begin(), keys_.end());
    keys_.back() = key_of(values[id], static_cast<int32_t>(id));
    std::push_heap(keys_.begin(), keys_.end());
    worst = values[id_of(keys_.front())];
  }
  std::sort(keys_.begin(), keys_.end());
  return k;
}

// How many of the `count` sorted candidates it takes for their probabilities, and `before` them the mass of larger ones, to
// reach top_p.
int64_t Sampler::nucleus(int64_t count, const float* values, float max, double total, double before) const {
  double sum = before / total;
  for (int64_t i = 0; i < count; i++) {
    sum += exp_of(below(values[id_of(keys_[i])], max)) / total;
    if (sum >= params_.top_p) return i + 1;
  }
  return count;
}

// The last key that top-p keeps of the whole vocabulary: buckets by distance below the maximum are counted in descending
// order, and only the one in which the sum reaches top_p has to be sorted.
uint64_t Sampler::last_key_of_nucleus(const float* values, float max) {
  double mass[4][kBuckets] = {};  // note: neighbouring ids add to different tables, or each would wait for the one before
  for (int first = 0; first < V_; first += kBlock) {
    const int count = std::min(kBlock, V_ - first);
    double exps[kBlock];
    for (int i = 0; i < count; i++) exps[i] = below(values[first + i], max);
    for (int i = 0; i < count; i++) exps[i] = exp_of(exps[i]);
    for (int i = 0; i < count; i++) mass[i % 4][bucket_of(values[first + i], max)] += exps[i];
  }
  double total = 0;
  for (int b = 0; b < kBuckets; b++) total += mass[0][b] += mass[1][b] + mass[2][b] + mass[3][b];
  double before = 0;
  int last = 0;
  while (last < kBuckets - 1 && (before + mass[0][last]) / total < params_.top_p) before += mass[0][last++];

  keys_.clear();
  for (int first = 0; first < V_; first += kBlock) {
    if (bucket_of(block_max_[first / kBlock], max) > last) continue;
    for (int id = first; id < std::min(first + kBlock, V_); id++) {
      if (bucket_of(values[id], max) == last) keys_.push_back(key_of(values[id], id));
    }
  }
  if (keys_.empty()) return UINT64_MAX;            // rounding kept the sum of everything below top_p
  std::sort(keys_.begin(), keys_.end());
  return keys_[nucleus(static_cast<int64_t>(keys_.size()), values, max, total, before) - 1];
}

void Sampler::draw_words(int32_t first_id, uint32_t position, uint32_t* words) const {
  philox(static_cast<uint32_t>(params_.seed), static_cast<uint32_t>(params_.seed >> 32), static_cast<uint32_t>(first_id) / 4, row_, position, words);
}

// Gumbel-max over the `count` sorted candidates in keys_. NaN is never drawn, though it sorts first.
int32_t Sampler::draw_from_keys(int64_t count, const float* values, int32_t likeliest, uint32_t position) const {
  const float gumbel_max = gumbel_table().max, max = values[likeliest];
  float best = -kInfinity;
  int32_t best_id = -1;
  uint32_t words[kBlock];
  for (int64_t i = 0; i < count; i++) {
    const int32_t id = id_of(keys_[i]);
    const float value = values[id];
    if (std::isnan(value)) continue;
    if (value + gumbel_max < best || (params_.min_p > 0 && value < max && exp_of(below(value, max)) < params_.min_p)) break;
    draw_words(id, position, words);
    const float noisy = value + gumbel_of(words[id % 4]);
    if (noisy > best || (noisy == best && id < best_id) || best_id < 0) {
      best = noisy;
      best_id = id;
    }
  }
  return best_id < 0 ? likeliest : best_id;
}

// Gumbel-max over every id whose key is at most last_key, in id order. A block is skipped before or after drawing its words
// when none of its ids could beat the best so far; the likeliest id goes first to make that common.
int32_t Sampler::draw_from_all(const float* values, int32_t likeliest, uint64_t last_key, uint32_t position) const {
  const GumbelTable& table = gumbel_table();
  const float max = values[likeliest];
  float floor = last_key == UINT64_MAX ? -kInfinity : values[id_of(last_key)];
  if (params_.min_p > 0) floor = std::max(floor, max + static_cast<float>(std::log(params_.min_p)) - rounding_margin(max));
  uint32_t words[kBlock];
  draw_words(likeliest, position, words);
  float best = max + gumbel_of(words[likeliest % 4]);
  int32_t best_id = likeliest;
  float needed = best - rounding_margin(best);
  // False when no id whose value is at most `highest` can win: before the words are known, and with the largest of them.
  const auto can_win = [&](float highest) { return !(needed - highest > table.max || highest < floor); };
  const auto can_win_with = [&](float highest, uint32_t word) {
    const float missing = needed - highest;
    return !(missing > 0) || word >= table.smallest_word[static_cast<size_t>(missing * kStepsPerUnit)];
  };
  for (int32_t first = 0; first < V_; first += kBlock) {
    const float block_max = block_max_[first / kBlock];
    if (!can_win(block_max)) continue;
    draw_words(first, position, words);
    uint32_t largest_word = 0;
    for (int i = 0; i < kBlock; i++) largest_word = std::max(largest_word, words[i]);
    if (!can_win_with(block_max, largest_word)) continue;
    for (int32_t id = first; id < std::min(first + kBlock, V_); id++) {
      const float value = values[id];
      const uint32_t word = words[id - first];
      if (!can_win(value) || !can_win_with(value, word)) continue;
      const float noisy = value + gumbel_of(word);
      if (!(noisy > best || (noisy == best && id < best_id))) continue;
      if (key_of(value, id) > last_key || (params_.min_p > 0 && exp_of(below(value, max)) < params_.min_p)) continue;
      best = noisy;
      best_id = id;
      needed = best - rounding_margin(best);
    }
  }
  return best_id;
}

}  // namespace nanochat
