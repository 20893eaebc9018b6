// q, k = s * norm(rope(q)), s * norm(rope(k));  v += m * sigmoid(ve_gate . n[0:g]) * value_embeds[id]       MODEL.md 1
// qkv (T, (H + 2 K) D) float, n (T, C) T -> q (T, H, Dp) T, and k, v to the token's place in its row's slot
// A warp per token and head. Bound by latency.
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/rotate.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128;

template <class T> NC_KERNEL(kThreads) append_kv_kernel(AppendKv<T> a) {
  start_next();
  wait_for_previous();
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
  launch_overlapping(stream, "append_kv", append_kv_kernel<T>, {T_, divide_up(a.H + 2 * a.K, kThreads / kWarp)}, kThreads, 0, a);
}

template void append_kv<float>(Stream&, const AppendKv<float>&, int64_t);
template void append_kv<bf16>(Stream&, const AppendKv<bf16>&, int64_t);

}  // namespace cuda
}  // namespace nanochat
