// y = softmax(q k / sqrt(D)) v for single queries, keys first..position                        MODEL.md 1: attention
// q (T, H, Dp), slots -> partial results per split (T, H, splits, Dp), then y (T, H D)
// A block per token, head and split; groups of Dp / 8 lanes (bf16; float: Dp / 4) take a key each, 16 bytes per lane, and
// keep a running softmax; groups, warps and at last splits are merged in a fixed order.
// Bound by reading keys and values. Not measured.
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kAtOnce = 4;  // keys that a group has in flight

// A softmax over some keys: largest score, sum of exponentials, and with it the weighted sum of values.
template <int kCount> struct Part {
  float largest, sum, out[kCount];
};

template <int kCount> NC_DEVICE void merge(Part<kCount>& a, const Part<kCount>& b) {
  if (b.sum == 0) return;
  const float largest = a.largest > b.largest ? a.largest : b.largest;
  const float left = a.sum == 0 ? 0 : expf(a.largest - largest), right = expf(b.largest - largest);
  a.sum = a.sum * left + b.sum * right;
  NC_UNROLL
  for (int i = 0; i < kCount; i++) a.out[i] = a.out[i] * left + b.out[i] * right;
  a.largest = largest;
}

template <class T, int Dp> NC_KERNEL(kThreads) attention_decode_kernel(Attention<T> a) {
  using Piece = Chunk<T>;
  constexpr int kCount = Piece::kCount, kGroup = Dp / kCount, kGroups = kWarp / kGroup;  // lanes of a key, keys of a warp
  static_assert(kGroup <= kWarp && kGroup >= 4, "a key fits in a warp");
  const int split = block_x(), head = block_y();
  const int64_t t = block_z();
  const Token token = a.tokens[t];
  const int visible_from = first_visible(token.position, a.window), visible = token.position - visible_from + 1;
  if (split >= split_count(visible)) return;
  const int per_split = keys_per_split(visible), first = visible_from + split * per_split;
  const int end = first + per_split < token.position + 1 ? first + per_split : token.position + 1;

  const int part = lane() % kGroup, group = warp() * kGroups + lane() / kGroup;
  const int kv_head = head / (a.H / a.K);
  const T* keys = head_cache<T>(a.rows[token.row], a.layer, 0, a.K, kv_head, Dp) + part * kCount;
  const T* values = head_cache<T>(a.rows[token.row], a.layer, 1, a.K, kv_head, Dp) + part * kCount;
  const auto query = *reinterpret_cast<const Piece*>(a.q + (t * a.H + head) * Dp + part * kCount);
  float q[kCount];
  NC_UNROLL
  for (int e = 0; e < kCount; e++) q[e] = widen(query.at[e]) * a.scale;

  Part<kCount> mine = {};
  for (int from = first + group; any(from < end); from += kWarps * kGroups * kAtOnce) {
    Piece k[kAtOnce], v[kAtOnce];
    float score[kAtOnce];
    NC_UNROLL
    for (int i = 0; i < kAtOnce; i++) {
      const int key = from + i * kWarps * kGroups;
      k[i] = v[i] = Piece{};
      if (key < end) {
        k[i] = *reinterpret_cast<const Piece*>(keys + static_cast<int64_t>(key) * Dp);
        v[i] = *reinterpret_cast<const Piece*>(values + static_cast<int64_t>(key) * Dp);
      }
    }
    float largest = mine.sum == 0 ? -INFINITY : mine.largest;
    NC_UNROLL
    for (int i = 0; i < kAtOnce; i++) {
      float dot = 0;
      NC_UNROLL
      for (int e = 0; e < kCount; e++) dot += q[e] * widen(k[i].at[e]);
      NC_UNROLL
      for (int m = kGroup / 2; m > 0; m /= 2) dot += shuffle_xor(dot, m);
      score[i] = from + i * kWarps * kGroups < end ? dot : -INFINITY;
      largest = largest > score[i] ? largest : score[i];
    }
    if (largest == -INFINITY) continue;
    const float shrink = mine.sum == 0 ? 0 : expf(mine.largest - largest);
    mine.largest = largest;
    mine.sum *= shrink;
    NC_UNROLL
    for (int e = 0; e < kCount; e++) mine.out[e] *= shrink;
    NC_UNROLL
    for (int i = 0; i < kAtOnce; i++) {
      const float p = expf(score[i] - largest);
      mine.sum += p;
      NC_UNROLL
      for (int e = 0; e < kCount; e++) mine.out[e] += p * widen(v[i].at[e]);
    }
  }

  NC_UNROLL
  for (int m = kGroup; m < kWarp; m *= 2) {
    Part<kCount> other;
    other.largest = shuffle_xor(mine.largest, m);
    other.sum = shuffle_xor(mine.sum, m);
    NC_UNROLL
    for (int e = 0; e < kCount; e++) other.out[e] = shuffle_xor(mine.out[e], m);
    // note: both lanes add in the same order, so that all hold the same sum
    if (lane() & m) {
      merge(other, mine);
      mine = other;
    } else {
      merge(mine, other);
    }
  }
  auto* all = static_cast<Part<kCount>*>(shared_memory());  // (warps, kGroup)
  if (lane() < kGroup) all[warp() * kGroup + part] = mine;
  sync_block();
  if (warp() != 0 || lane() >= kGroup) return;
  for (int w = 1; w < kWarps; w++) merge(mine, all[w * kGroup + part]);
  const int64_t at = (t * a.H + head) * kMaxSplits + split;
  NC_UNROLL
  for (int e = 0; e < kCount; e++) a.partial[at * Dp + part * kCount + e] = mine.out[e];
  if (part == 0) {
    a.weights[2 * at] = mine.largest;
    a.weights[2 * at + 1] = mine.sum;
  }
}

// A warp per token and head.
template <class T> NC_KERNEL(kThreads) attention_combine_kernel(Attention<T> a) {
  const int head = block_y() * kWarps + warp();
  if (head >= a.H) return;
  const int64_t t = block_x(), at = (t * a.H + head) * kMaxSplits;
  const int position = a.tokens[t].position, splits = split_count(position - first_visible(position, a.window) + 1);
  float largest = a.weights[2 * at], sum = 0;
  for (int s = 1; s < splits; s++) largest = largest > a.weights[2 * (at + s)] ? largest : a.weights[2 * (at + s)];
  for (int s = 0; s < splits; s++) sum += a.weights[2 * (at + s) + 1] * expf(a.weights[2 * (at + s)] - largest);
  for (int d = lane(); d < a.D; d += kWarp) {
    float out = 0;
    for (int s = 0; s < splits; s++) out += a.partial[(at + s) * a.Dp + d] * expf(a.weights[2 * (at + s)] - largest);
    a.y[t * a.y_stride + head * a.D + d] = narrow<T>(out / sum);
  }
}

template <class T, int Dp> void launch_decode(Stream& stream, const Attention<T>& a, int64_t T_, int splits) {
  constexpr int kCount = Chunk<T>::kCount;
  launch(stream, "attention_decode", attention_decode_kernel<T, Dp>, {splits, a.H, T_}, kThreads, kWarps * Dp / kCount * sizeof(Part<kCount>), a);
}

}  // namespace

template <class T> void attention_decode(Stream& stream, const Attention<T>& a, int64_t T_, int splits) {
  switch (a.Dp) {
    case 32: launch_decode<T, 32>(stream, a, T_, splits); break;
    case 64: launch_decode<T, 64>(stream, a, T_, splits); break;
    case 128: launch_decode<T, 128>(stream, a, T_, splits); break;
  }
  launch(stream, "attention_combine", attention_combine_kernel<T>, {T_, divide_up(a.H, kWarps)}, kThreads, 0, a);
}

template void attention_decode<float>(Stream&, const Attention<float>&, int64_t, int);
template void attention_decode<bf16>(Stream&, const Attention<bf16>&, int64_t, int);

}  // namespace cuda
}  // namespace nanochat
