// q, k = s * norm(rope(q)), s * norm(rope(k));  v += m * sigmoid(ve_gate . n[0:g]) * value_embeds[id]       MODEL.md 1
// qkv (T, (H + 2 K) D) float, n (T, C) T -> q (T, H, Dp) T, and k, v to the token's place in its row's slot
// A warp per token and head; a lane holds pairs (i, i + D/2) of q and k, so that rotation needs no exchange.
// Bound by latency. Not measured.
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kPairs = 2;  // per lane: D of up to 128

template <class T> NC_DEVICE void write_rotated(const AppendKv<T>& a, const float* x, int64_t t, T* out) {
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

template <class T> NC_DEVICE void write_value(const AppendKv<T>& a, const float* v, const Token& token, int64_t t, int head, T* out) {
  float gate = 0;
  const unsigned char* embedding = static_cast<const unsigned char*>(a.value_embeds);
  if (embedding) {
    float dot = 0;
    for (int c = 0; c < a.g; c++) dot += a.ve_gate[head * a.g + c] * widen(a.n[t * a.n_stride + c]);
    gate = a.m * sigmoid(dot);
    embedding += (static_cast<int64_t>(token.id) * a.K + head) * a.D * (a.value_embeds_is_bf16 ? 2 : 4);
  }
  for (int d = lane(); d < a.Dp; d += kWarp) {
    float x = d < a.D ? v[d] : 0;
    if (embedding && d < a.D) x += gate * element(embedding, a.value_embeds_is_bf16, d);
    out[d] = narrow<T>(x);
  }
}

template <class T> NC_KERNEL(kThreads) append_kv_kernel(AppendKv<T> a) {
  const int heads = a.H + 2 * a.K, head = block_y() * (kThreads / kWarp) + warp();
  if (head >= heads) return;
  const int64_t t = block_x();
  const Token token = a.tokens[t];
  const float* x = a.qkv + (t * heads + head) * a.D;
  if (head < a.H) return write_rotated(a, x, t, a.q + (t * a.H + head) * a.Dp);
  const int value = head >= a.H + a.K, kv_head = head - a.H - value * a.K;
  T* out = head_cache<T>(a.rows[token.row], a.layer, value, a.K, kv_head, a.Dp) + static_cast<int64_t>(token.position) * a.Dp;
  if (value) write_value(a, x, token, t, kv_head, out);
  else write_rotated(a, x, t, out);
}

}  // namespace

template <class T> void append_kv(Stream& stream, const AppendKv<T>& a, int64_t T_) {
  launch(stream, "append_kv", append_kv_kernel<T>, {T_, divide_up(a.H + 2 * a.K, kThreads / kWarp)}, kThreads, 0, a);
}

template void append_kv<float>(Stream&, const AppendKv<float>&, int64_t);
template void append_kv<bf16>(Stream&, const AppendKv<bf16>&, int64_t);

}  // namespace cuda
}  // namespace nanochat
