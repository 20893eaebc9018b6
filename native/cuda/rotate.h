// What becomes of a token's q, k and v before attention        MODEL.md 1
// A lane holds pairs (i, i + D/2) of q and k, so that rotation needs no exchange.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

struct Rotation {
  float cos, sin;
};

NC_DEVICE Rotation rotation(const RopeTable& a, float position, int i) {
  const CosSin exact = cos_sin(static_cast<double>(position * a.inv_freq[i]));
  const float c = static_cast<float>(exact.cos), s = static_cast<float>(exact.sin);
  return a.round_to_bf16 ? Rotation{widen(round_bf16(c)), widen(round_bf16(s))} : Rotation{c, s};
}

// out = s * norm(rope(x)), by a warp
template <class T> NC_DEVICE void write_rotated(const AppendKv<T>& a, const float* x, int64_t t, T* out) {
  constexpr int kPairs = 2;  // per lane: D of up to 128
  const int half = a.D / 2;
  float first[kPairs], second[kPairs], squares = 0;
  NC_UNROLL
  for (int p = 0; p < kPairs; p++) {
    const int i = lane() + p * kWarp;
    first[p] = second[p] = 0;
    if (i < half) {
      const float c = a.cos[t * half + i], s = a.sin[t * half + i];
      first[p] = x[i] * c + x[half + i] * s;
      second[p] = x[half + i] * c - x[i] * s;
    }
    squares += first[p] * first[p] + second[p] * second[p];
  }
  const float factor = a.scale * rsqrtf(warp_sum(squares) / static_cast<float>(a.D) + a.eps);
  NC_UNROLL
  for (int p = 0; p < kPairs; p++) {
    const int i = lane() + p * kWarp;
    if (i >= half) continue;
    out[i] = narrow<T>(first[p] * factor);
    out[half + i] = narrow<T>(second[p] * factor);
  }
  for (int d = a.D + lane(); d < a.Dp; d += kWarp) out[d] = narrow<T>(0);
}

// out = v + m * sigmoid(ve_gate . n) * value_embeds[id], by a warp
template <class T> NC_DEVICE void write_value(const AppendKv<T>& a, const float* v, const Token& token, int64_t t, int head, T* out) {
  float gate = 0;
  const unsigned char* embedding = static_cast<const unsigned char*>(a.value_embeds);
  if (embedding) {
    float dot = 0;
    for (int c = lane(); c < a.g; c += kWarp) dot += a.ve_gate[head * a.g + c] * widen(a.n[t * a.n_stride + c]);
    gate = a.m * sigmoid(warp_sum(dot));
    embedding += (static_cast<int64_t>(token.id) * a.K + head) * a.D * (a.value_embeds_is_bf16 ? 2 : 4);
  }
  for (int d = lane(); d < a.Dp; d += kWarp) {
    float x = d < a.D ? v[d] : 0;
    if (embedding && d < a.D) x += gate * element(embedding, a.value_embeds_is_bf16, d);
    out[d] = narrow<T>(x);
  }
}

}  // namespace cuda
}  // namespace nanochat
