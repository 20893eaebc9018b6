#include "cpu/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace nanochat {

namespace {

constexpr int kInt4Group = group_size(WeightFormat::int4), kInt8Group = group_size(WeightFormat::int8);

// The place of a value of -128..127 among 256; a NaN counts as the least.
int place(float value) {
  const float bounded = value > -128.0f ? std::min(value, 127.0f) : -128.0f;
  return static_cast<int>(bounded + 128.5f);
}

struct NearestCodes {
  std::array<uint8_t, 256> index;
  std::array<float, 256> level;
  NearestCodes() {
    for (int i = 0; i < 256; i++) {
      int best = 0;
      for (int c = 1; c < 16; c++) {
        if (std::abs(i - 128 - kInt4Codes[c]) < std::abs(i - 128 - kInt4Codes[best])) best = c;
      }
      index[i] = static_cast<uint8_t>(best);
      level[i] = static_cast<float>(kInt4Codes[best]);
    }
  }
};

float largest_magnitude(const float* weights, int count) {
  float largest = 0;
  for (int i = 0; i < count; i++) largest = std::max(largest, std::fabs(weights[i]));
  return largest;
}

float reciprocal(bf16 scale) { return to_float(scale) != 0 ? 1.0f / to_float(scale) : 0.0f; }

// The scale whose codes leave the least squared error: around each that makes the largest weight the first or last code.
bf16 int4_scale(const float* w, const NearestCodes& nearest) {
  const float largest = largest_magnitude(w, kInt4Group);
  float best_scale = 0, best_gain = 0;
  for (int candidate = 0; candidate < 18 && largest > 0; candidate++) {
    const float end = candidate % 2 ? 127.0f : -127.0f;
    const float per_unit = end / largest * (0.76f + 0.06f * static_cast<float>(candidate / 2));
    float with_code = 0, of_codes = 0;
    for (int i = 0; i < kInt4Group; i++) {
      const float level = nearest.level[place(w[i] * per_unit)];
      with_code += w[i] * level;
      of_codes += level * level;
    }
    const float gain = with_code * with_code / of_codes;  // what the best scale for these codes takes off sum w^2
    if (gain > best_gain) {
      best_gain = gain;
      best_scale = with_code / of_codes;
    }
  }
  return to_bf16(best_scale);
}

}  // namespace

void quantize_weights(WeightFormat format, const float* weights, int k, int lane, uint8_t* panel) {
  static const NearestCodes nearest;
  const int size = group_size(format);
  for (int64_t g = 0; g < groups_of(format, k); g++) {
    uint8_t* group = panel + g * group_bytes(format);
    uint8_t* codes = group + kPanel * sizeof(bf16);
    float w[kInt8Group] = {0};
    std::copy_n(weights + g * size, std::min<int64_t>(size, k - g * size), w);
    bf16* scale = reinterpret_cast<bf16*>(group) + lane;
    if (format == WeightFormat::int8) {
      *scale = to_bf16(largest_magnitude(w, size) / 127);
      const float per_unit = reciprocal(*scale);
      for (int i = 0; i < size; i++) codes[(i / 4 * kPanel + lane) * 4 + i % 4] = static_cast<uint8_t>(std::max(1, place(w[i] * per_unit)));
    } else {
      *scale = int4_scale(w, nearest);
      const float per_unit = reciprocal(*scale);
      for (int i = 0; i < size; i += 8) {
        for (int e = 0; e < 4; e++) {
          const uint8_t first = nearest.index[place(w[i + e] * per_unit)], second = nearest.index[place(w[i + 4 + e] * per_unit)];
          codes[(i / 8 * kPanel + lane) * 4 + e] = static_cast<uint8_t>(first | second << 4);
        }
      }
    }
  }
}

}  // namespace nanochat
