// y = softmax(q k / sqrt(D)) v for single queries, keys first..position                        MODEL.md 1: attention
// q (T, H, Dp), slots -> y (T, H D); or qkv (T, (H + 2 K) D), whose k and v it appends to the slots first
// Keys are split by their number alone; a block takes a run of a token and head's splits. Groups of Dp / 8 lanes (bf16;
// float: Dp / 4) take a key each, 16 bytes per lane, and keep a running softmax. Keys and values pass through a ring in shared
// memory in which every lane has places of its own. What groups, warps and splits found is merged in a fixed order, the same
// in one block as in many, by the last block that is done.
// Bound by reading keys and values.
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/ring.h"
#include "cuda/rotate.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kAtOnce = 4;  // keys of a group in a piece
constexpr int kPieces = 2;  // in the ring

template <class T> struct Decode {
  Attention<T> a;
  AppendKv<T> append;
  int run;  // splits of a block
};

// A softmax over some keys: largest score, sum of exponentials, and with it the weighted sum of values.
template <int kCount> struct Part {
  float largest, sum, out[kCount];
};

NC_DEVICE float shrink(float largest, float sum, float to) { return sum == 0 ? 0 : expf(largest - to); }

template <int kCount> NC_DEVICE void merge(Part<kCount>& a, const Part<kCount>& b) {
  const float largest = fmaxf(a.largest, b.largest), left = shrink(a.largest, a.sum, largest), right = shrink(b.largest, b.sum, largest);
  a.largest = largest;
  a.sum = a.sum * left + b.sum * right;
  NC_UNROLL
  for (int i = 0; i < kCount; i++) a.out[i] = a.out[i] * left + b.out[i] * right;
}

// One element of a split, of what its warps found: weights (kWarps, 2), out (kWarps, pitch).
NC_DEVICE Part<1> merge_warps(const float* weights, const float* out, int pitch) {
  Part<1> all = {weights[0], 0, {0}};
  NC_UNROLL
  for (int w = 1; w < kWarps; w++) all.largest = fmaxf(all.largest, weights[2 * w]);
  NC_UNROLL
  for (int w = 0; w < kWarps; w++) {
    const float factor = expf(weights[2 * w] - all.largest);  // 0 for a warp without keys
    all.sum += weights[2 * w + 1] * factor;
    all.out[0] += out[w * pitch] * factor;
  }
  return all;
}

// The same of up to 32 splits, whose weights the lanes of a warp load at once.
NC_DEVICE float merge_splits(const float* weights, const float* out, int pitch, int splits) {
  static_assert(kMaxSplits <= kWarp, "a lane per split");
  const float own = lane() < splits ? weights[2 * lane()] : -INFINITY;
  float largest = own;
  for (int m = kWarp / 2; m > 0; m /= 2) largest = fmaxf(largest, shuffle_xor(largest, m));
  const float factor = expf(own - largest), sum = warp_sum(lane() < splits ? weights[2 * lane() + 1] * factor : 0);
  float all = 0;
  NC_UNROLL_BY_4
  for (int s = 0; s < splits; s++) all += out[s * pitch] * shuffle(factor, s);
  return all / sum;
}

// What a block has in shared memory, for a run of splits.
template <class T, int Dp> struct alignas(16) Shared {
  Chunk<T> ring[kPieces][kAtOnce][2][kThreads];  // keys, values
  T q[Dp], k[Dp], v[Dp];                         // of the new token
  float warp_weights[2][kWarps][2], warp_out[2][kWarps][Dp];  // of a split, the next one beside it
  uint32_t arrived;
  float weights[kMaxSplits][2];                  // of each split
  // behind it: out (run, Dp)
  static constexpr size_t bytes(int run) { return sizeof(Shared) + static_cast<size_t>(run) * Dp * sizeof(float); }
};

// Adds some keys to a running softmax.
template <class T, int kGroup> NC_DEVICE void add_keys(Part<Chunk<T>::kCount>& mine, const float (&q)[Chunk<T>::kCount], const Chunk<T> (&k)[kAtOnce], const Chunk<T> (&v)[kAtOnce],
                                                       const bool (&is_seen)[kAtOnce]) {
  constexpr int kCount = Chunk<T>::kCount;
  float score[kAtOnce], largest = mine.largest;
  NC_UNROLL
  for (int i = 0; i < kAtOnce; i++) {
    float dot = 0;
    NC_UNROLL
    for (int e = 0; e < kCount; e++) dot += q[e] * widen(k[i].at[e]);
    NC_UNROLL
    for (int m = kGroup / 2; m > 0; m /= 2) dot += shuffle_xor(dot, m);
    score[i] = is_seen[i] ? dot : -INFINITY;
    largest = fmaxf(largest, score[i]);
  }
  if (largest == -INFINITY) return;
  const float before = shrink(mine.largest, mine.sum, largest);
  mine.largest = largest;
  mine.sum *= before;
  NC_UNROLL
  for (int e = 0; e < kCount; e++) mine.out[e] *= before;
  NC_UNROLL
  for (int i = 0; i < kAtOnce; i++) {
    const float p = expf(score[i] - largest);
    mine.sum += p;
    NC_UNROLL
    for (int e = 0; e < kCount; e++) mine.out[e] += p * widen(v[i].at[e]);
  }
}

// What the groups of a warp found.
template <int kGroup, int kCount> NC_DEVICE void merge_groups(Part<kCount>& mine) {
  NC_UNROLL
  for (int m = kGroup; m < kWarp; m *= 2) {
    Part<kCount> other;
    other.largest = shuffle_xor(mine.largest, m);
    other.sum = shuffle_xor(mine.sum, m);
    NC_UNROLL
    for (int e = 0; e < kCount; e++) other.out[e] = shuffle_xor(mine.out[e], m);
    merge(mine, other);
  }
}

// Rotated q, and where the block has the last split, k and v, which one head of each group also keeps.
template <class T, int Dp> NC_DEVICE void take_new_token(const Decode<T>& p, const Token& token, int64_t t, int head, bool has_last, Shared<T, Dp>* shared) {
  const AppendKv<T>& a = p.append;
  const int group = a.H / a.K, kv_head = head / group;
  const float* qkv = a.qkv + t * (a.H + 2 * a.K) * a.D;
  if (warp() == 0) write_rotated(a, qkv + head * a.D, t, shared->q);
  if (has_last && warp() == 1) write_rotated(a, qkv + (a.H + kv_head) * a.D, t, shared->k);
  if (has_last && warp() == 2) write_value(a, qkv + (a.H + a.K + kv_head) * a.D, token, t, kv_head, shared->v);
  sync_block();
  if (!has_last || head % group != 0) return;
  for (int value = 0; value < 2; value++) {
    T* out = head_cache<T>(a.rows[token.row], a.layer, value, a.K, kv_head, Dp) + static_cast<int64_t>(token.position) * Dp;
    for (int d = thread(); d < Dp; d += kThreads) out[d] = value ? shared->v[d] : shared->k[d];
  }
}

template <class T, int Dp, bool kAppends> NC_KERNEL(kThreads) attention_decode_kernel(Decode<T> p) {
  using Piece = Chunk<T>;
  constexpr int kCount = Piece::kCount, kGroup = Dp / kCount, kStep = kWarps * (kWarp / kGroup);  // lanes of a key, keys that the block takes side by side
  static_assert(kGroup <= kWarp && kGroup >= 4, "a key fits in a warp");
  static_assert(Dp <= kThreads, "a thread per element");
  start_next();
  const Attention<T>& a = p.a;
  const int head = block_y(), kv_head = head / (a.H / a.K);
  const int64_t t = block_z(), at = t * a.H + head;
  const Token token = a.tokens[t];
  const Row row = a.rows[token.row];
  const int visible_from = first_visible(token.position, a.window), visible = token.position - visible_from + 1;
  const int splits = split_count(visible), per_split = keys_per_split(visible), first_split = block_x() * p.run;
  const int end_split = first_split + p.run < splits ? first_split + p.run : splits;
  const int group = warp() * (kWarp / kGroup) + lane() / kGroup, part = lane() % kGroup * kCount;
  const T* keys = head_cache<T>(row, a.layer, 0, a.K, kv_head, Dp) + static_cast<int64_t>(visible_from) * Dp + part;
  const T* values = head_cache<T>(row, a.layer, 1, a.K, kv_head, Dp) + static_cast<int64_t>(visible_from) * Dp + part;
  auto* shared = static_cast<Shared<T, Dp>*>(shared_memory());
  float* out = reinterpret_cast<float*>(shared + 1);

  const auto length_of = [&](int split) { return per_split < visible - split * per_split ? per_split : visible - split * per_split; };
  const auto is_seen = [&](const RingPlace<kPieces>& place, int i) { return place.from + i * kStep + group < length_of(place.item); };
  RingPlace<kPieces> asked = {first_split};
  const auto ask = [&] {  // for the next piece; what it is copied over was read before
    if (asked.item < end_split) {
      NC_UNROLL
      for (int i = 0; i < kAtOnce; i++) {
        const int key = asked.item * per_split + asked.from + i * kStep + group;
        const bool is_there = is_seen(asked, i) && !(kAppends && key == visible - 1);
        const int64_t from = is_there ? static_cast<int64_t>(key) * Dp : 0;
        copy_async(&shared->ring[asked.slot][i][0][thread()], keys + from, is_there);
        copy_async(&shared->ring[asked.slot][i][1][thread()], values + from, is_there);
      }
      asked.advance(kAtOnce * kStep, length_of(asked.item));
    }
    commit_copies();
  };
  if (!kAppends) wait_for_previous();
  for (int i = 0; i < kPieces; i++) ask();
  if (kAppends) wait_for_previous();
  if (first_split >= splits) return;

  if (kAppends) take_new_token<T, Dp>(p, token, t, head, end_split == splits, shared);
  const auto query = *reinterpret_cast<const Piece*>((kAppends ? shared->q : a.q + at * Dp) + part);
  float q[kCount];
  NC_UNROLL
  for (int e = 0; e < kCount; e++) q[e] = widen(query.at[e]) * a.scale;

  const int d = thread();
  Part<kCount> mine = {-INFINITY, 0, {}};
  for (RingPlace<kPieces> place = {first_split}; place.item < end_split;) {
    wait_copies<kPieces - 1>();
    Piece k[kAtOnce], v[kAtOnce];
    bool seen[kAtOnce];
    NC_UNROLL
    for (int i = 0; i < kAtOnce; i++) {
      seen[i] = is_seen(place, i);
      const bool is_new = kAppends && seen[i] && place.item * per_split + place.from + i * kStep + group == visible - 1;
      k[i] = is_new ? *reinterpret_cast<const Piece*>(shared->k + part) : shared->ring[place.slot][i][0][thread()];
      v[i] = is_new ? *reinterpret_cast<const Piece*>(shared->v + part) : shared->ring[place.slot][i][1][thread()];
    }
    add_keys<T, kGroup>(mine, q, k, v, seen);
    ask();
    const int split = place.item, parity = split % 2;
    place.advance(kAtOnce * kStep, length_of(split));
    if (place.item == split) continue;
    merge_groups<kGroup>(mine);
    if (lane() < kGroup) {
      if (lane() == 0) {
        shared->warp_weights[parity][warp()][0] = mine.largest;
        shared->warp_weights[parity][warp()][1] = mine.sum;
      }
      NC_UNROLL
      for (int e = 0; e < kCount; e++) shared->warp_out[parity][warp()][part + e] = mine.out[e];
    }
    mine = {-INFINITY, 0, {}};
    sync_block();
    if (d >= Dp) continue;
    const Part<1> all = merge_warps(&shared->warp_weights[parity][0][0], &shared->warp_out[parity][0][d], Dp);
    out[(split - first_split) * Dp + d] = all.out[0];
    if (d > 0) continue;
    shared->weights[split][0] = all.largest;
    shared->weights[split][1] = all.sum;
  }
  wait_copies<0>();

  float* partial = a.partial + at * kMaxSplits * Dp;
  float* partial_weights = a.weights + at * kMaxSplits * 2;
  const bool is_whole = first_split == 0 && end_split == splits;
  if (!is_whole) {
    for (int split = first_split; split < end_split && d < Dp; split++) {
      partial[split * Dp + d] = out[(split - first_split) * Dp + d];
      if (d == 0) {
        partial_weights[2 * split] = shared->weights[split][0];
        partial_weights[2 * split + 1] = shared->weights[split][1];
      }
    }
    publish();
    sync_block();
    if (d == 0) shared->arrived = add_global(&a.arrived[at], 1) + 1;
    sync_block();
    if (static_cast<int>(shared->arrived) < static_cast<int>(divide_up(splits, p.run))) return;
    publish();
    if (d == 0) a.arrived[at] = 0;
  } else {
    sync_block();
  }
  const int element = d < Dp ? d : 0;
  const float y = is_whole ? merge_splits(&shared->weights[0][0], out + element, Dp, splits) : merge_splits(partial_weights, partial + element, Dp, splits);
  if (d < a.D) a.y[t * a.y_stride + head * a.D + d] = narrow<T>(y);
}

template <class T, int Dp, bool kAppends> void launch_decode(Stream& stream, const Attention<T>& a, const AppendKv<T>& append, int64_t T_, int splits) {
  // several blocks per place on the device, so that short ones fill in; then as long runs as that allows
  const int64_t run = T_ * a.H * splits / (int64_t{8} * stream.processors());
  const Decode<T> p{a, append, static_cast<int>(run < 1 ? 1 : run > splits ? splits : run)};
  launch_overlapping(stream, "attention_decode", attention_decode_kernel<T, Dp, kAppends>, {divide_up(splits, p.run), a.H, T_}, kThreads, Shared<T, Dp>::bytes(p.run), p);
}

template <class T, bool kAppends> void launch_padded(Stream& stream, const Attention<T>& a, const AppendKv<T>& append, int64_t T_, int splits) {
  switch (a.Dp) {
    case 32: return launch_decode<T, 32, kAppends>(stream, a, append, T_, splits);
    case 64: return launch_decode<T, 64, kAppends>(stream, a, append, T_, splits);
    case 128: return launch_decode<T, 128, kAppends>(stream, a, append, T_, splits);
  }
}

}  // namespace

template <class T> void attention_decode(Stream& stream, const Attention<T>& a, int64_t T_, int splits) { launch_padded<T, false>(stream, a, {}, T_, splits); }

template <class T> void attention_append(Stream& stream, const Attention<T>& a, const AppendKv<T>& append, int64_t T_, int splits) {
  launch_padded<T, true>(stream, a, append, T_, splits);
}

template void attention_decode<float>(Stream&, const Attention<float>&, int64_t, int);
template void attention_decode<bf16>(Stream&, const Attention<bf16>&, int64_t, int);
template void attention_append<float>(Stream&, const Attention<float>&, const AppendKv<float>&, int64_t, int);
template void attention_append<bf16>(Stream&, const Attention<bf16>&, const AppendKv<bf16>&, int64_t, int);

}  // namespace cuda
}  // namespace nanochat
