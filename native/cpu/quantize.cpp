#include "cpu/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace nanochat {

namespace {

constexpr int kInt4Group = group_size(WeightFormat::int4), kInt8Group = group_size(WeightFormat::int8);

constexpr int kScales = 24;       // tried for an int4 group
constexpr int kUnitPlaces = 255;  // of -1..1, in steps of 1 / 127

// The place of a value among -128..127, the nearest.
int place(float value) { return std::min(std::max(static_cast<int>(value + 128.5f), 0), 255); }

struct Int4Tables {
  std::array<uint8_t, 256> index;  // by place: of the nearest code
  std::array<float, 256> level;    // that code
  std::array<float, kScales> per_largest;  // 1 / scale of a group whose largest weight is 1
  // Squared errors that the scales leave of a weight, four in a word, in units of 1 / 8192: sums of 32 stay in their 16 bits.
  uint64_t errors[kUnitPlaces][kScales / 4] = {};

  Int4Tables() {
    for (int i = 0; i < 256; i++) {
      int best = 0;
      for (int c = 1; c < 16; c++) {
        if (std::abs(i - 128 - kInt4Codes[c]) < std::abs(i - 128 - kInt4Codes[best])) best = c;
      }
      index[i] = static_cast<uint8_t>(best);
      level[i] = static_cast<float>(kInt4Codes[best]);
    }
    for (int s = 0; s < kScales; s++) {
      per_largest[s] = (s % 2 ? 127.0f : -127.0f) * (0.76f + 0.04f * static_cast<float>(s / 2));
      for (int p = 0; p < kUnitPlaces; p++) {
        const float weight = static_cast<float>(p - 127) / 127;
        const float left = weight - level[place(weight * per_largest[s])] / per_largest[s];
        errors[p][s / 4] |= static_cast<uint64_t>(std::min(left * left * 8192 + 0.5f, 2047.0f)) << s % 4 * 16;
      }
    }
  }
};

// The loops below are in a form that compilers turn into vectors: no comparison of floats, sums in kLanes parts.
constexpr int kLanes = 8;

// Copies what is finite, the rest as zeros; whether all was.
bool copy_finite(const float* weights, int count, float* out) {
  uint32_t all = ~0u;
  for (int i = 0; i < count; i++) {
    uint32_t bits;
    std::memcpy(&bits, weights + i, sizeof bits);
    const uint32_t mask = (bits & 0x7f800000u) != 0x7f800000u ? ~0u : 0u;
    all &= mask;
    bits &= mask;
    std::memcpy(out + i, &bits, sizeof bits);
  }
  return all != 0;
}

// Of finite numbers, whose magnitudes have the order of their bits.
float largest_magnitude(const float* weights, int count) {
  int32_t lanes[kLanes] = {0};
  for (int i = 0; i < count; i += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      int32_t bits;
      std::memcpy(&bits, weights + i + lane, sizeof bits);
      lanes[lane] = std::max(lanes[lane], bits & 0x7fffffff);
    }
  }
  const int32_t most = *std::max_element(lanes, lanes + kLanes);
  float largest;
  std::memcpy(&largest, &most, sizeof largest);
  return largest;
}

// note: bounded, so that what it scales stays far from the end of an int
float reciprocal(bf16 scale) { return to_float(scale) != 0 ? std::min(1.0f / std::fabs(to_float(scale)), 1e38f) * std::copysign(1.0f, to_float(scale)) : 0.0f; }

// Of the scales around those that make the largest weight the first or last code, the one that leaves the least squared
// error, then the best for its codes. The table's steps are coarse for an error, not for a choice.
bf16 int4_scale(const float* w, const Int4Tables& tables) {
  const float largest = largest_magnitude(w, kInt4Group);
  if (largest == 0) return {0};
  float units[kInt4Group];
  for (int i = 0; i < kInt4Group; i++) units[i] = w[i] / largest;
  uint64_t sums[kScales / 4] = {0};
  for (int i = 0; i < kInt4Group; i++) {
    const uint64_t* of_weight = tables.errors[static_cast<int>(units[i] * 127.0f + 127.5f)];
    for (int word = 0; word < kScales / 4; word++) sums[word] += of_weight[word];
  }
  uint16_t errors[kScales];
  for (int s = 0; s < kScales; s++) errors[s] = static_cast<uint16_t>(sums[s / 4] >> s % 4 * 16);
  int places[kInt4Group];
  const float per_unit = tables.per_largest[std::min_element(errors, errors + kScales) - errors];
  for (int i = 0; i < kInt4Group; i++) places[i] = place(units[i] * per_unit);
  float with_code[kLanes] = {0}, of_codes[kLanes] = {0};
  for (int i = 0; i < kInt4Group; i += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      const float level = tables.level[places[i + lane]];
      with_code[lane] += units[i + lane] * level;
      of_codes[lane] += level * level;
    }
  }
  const float best = std::accumulate(with_code, with_code + kLanes, 0.0f) / std::accumulate(of_codes, of_codes + kLanes, 0.0f);
  return to_bf16(largest * best);
}

}  // namespace

void quantize_weights(WeightFormat format, const float* weights, int k, int lane, uint8_t* panel) {
  static const Int4Tables tables;
  const int size = group_size(format);
  for (int64_t g = 0; g < groups_of(format, k); g++) {
    uint8_t* group = panel + g * group_bytes(format);
    uint8_t* codes = group + kPanel * sizeof(bf16) + lane * 4;
    float w[kInt8Group] = {0};
    const bool finite = copy_finite(weights + g * size, static_cast<int>(std::min<int64_t>(size, k - g * size)), w);
    const bf16 scale = format == WeightFormat::int8 ? to_bf16(largest_magnitude(w, size) / 127) : int4_scale(w, tables);
    reinterpret_cast<bf16*>(group)[lane] = finite ? scale : to_bf16(std::numeric_limits<float>::quiet_NaN());
    const float per_unit = reciprocal(scale);
    int places[kInt8Group];
    for (int i = 0; i < size; i++) places[i] = place(w[i] * per_unit);
    if (format == WeightFormat::int8) {
      for (int i = 0; i < size; i++) codes[i / 4 * kPanel * 4 + i % 4] = static_cast<uint8_t>(std::max(1, places[i]));
    } else {
      for (int i = 0; i < size; i += 8) {
        for (int e = 0; e < 4; e++) codes[i / 8 * kPanel * 4 + e] = static_cast<uint8_t>(tables.index[places[i + e]] | tables.index[places[i + 4 + e]] << 4);
      }
    }
  }
}

}  // namespace nanochat
