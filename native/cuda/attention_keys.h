// What a block does for one query: a run of its splits, and what all of them found together.          MODEL.md 1: attention
// Groups of Dp / 8 lanes (bf16; float: Dp / 4) take a key each, 16 bytes per lane, and keep a running softmax. Keys and values
// pass through a ring in shared memory in which every lane has places of its own. What groups, warps and splits found is
// merged in a fixed order, the same in one block as in many, by the last block that is done.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/ring.h"
#include "cuda/rotate.h"

namespace nanochat {
namespace cuda {

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
template <int kWarps> NC_DEVICE Part<1> merge_warps(const float* weights, const float* out, int pitch) {
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

// Adds some keys to a running softmax.
template <class T, int kGroup, int kAtOnce> NC_DEVICE void add_keys(Part<Chunk<T>::kCount>& mine, const float (&q)[Chunk<T>::kCount], const Chunk<T> (&k)[kAtOnce], const Chunk<T> (&v)[kAtOnce],
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

// What a block has in shared memory for a run.
template <class T, int Dp, int kWarps, int kAtOnce, int kPieces> struct alignas(16) RunShared {
  Chunk<T> ring[kPieces][kAtOnce][2][kWarps * kWarp];      // keys, values
  T q[Dp], k[Dp], v[Dp];                                      // of the new token
  float warp_weights[2][kWarps][2], warp_out[2][kWarps][Dp];  // of a split, the next one beside it
  float weights[kMaxSplits][2];                               // of each split
  uint32_t arrived;
};

// The keys that a token sees, and how they are split.
struct Splits {
  int visible_from, visible, count, per_split;
};
NC_DEVICE Splits splits_of(int position, int window) {
  const int from = first_visible(position, window), visible = position - from + 1;
  return {from, visible, split_count(visible), keys_per_split(visible)};
}

// Splits [first_split, end_split) of the keys that a token's head sees. kAppends: the token's own key and value come from qkv.
// kAtOnce: keys of a group in a piece. kPieces: in the ring.
template <class T, int Dp, int kWarps, int kAtOnce, int kPieces, bool kAppends> struct KeyRun {
  using Piece = Chunk<T>;
  using Shared = RunShared<T, Dp, kWarps, kAtOnce, kPieces>;
  using Place = RingPlace<kPieces>;
  static constexpr int kCount = Piece::kCount, kGroup = Dp / kCount, kStep = kWarps * (kWarp / kGroup);  // lanes of a key, keys that the block takes side by side
  static_assert(kGroup <= kWarp && kGroup >= 4, "a key fits in a warp");
  static_assert(Dp <= kWarps * kWarp, "a thread per element");

  Token token;
  int64_t t;
  int head, kv_head, group, part, visible, splits, per_split, run, first_split, end_split;
  const T *keys, *values;
  Place asked;

  NC_DEVICE KeyRun(const Attention<T>& a, const Token& of, const Splits& all, int64_t at, int in_head, int number, int splits_of_run) {
    t = at;
    head = in_head;
    kv_head = head / (a.H / a.K);
    group = warp() * (kWarp / kGroup) + lane() / kGroup;
    part = lane() % kGroup * kCount;
    token = of;
    visible = all.visible;
    splits = all.count;
    per_split = all.per_split;
    run = splits_of_run;
    first_split = number * run;
    end_split = first_split + run < splits ? first_split + run : splits;
    const Row row = a.rows[token.row];
    keys = head_cache<T>(row, a.layer, 0, a.K, kv_head, Dp) + static_cast<int64_t>(all.visible_from) * Dp + part;
    values = head_cache<T>(row, a.layer, 1, a.K, kv_head, Dp) + static_cast<int64_t>(all.visible_from) * Dp + part;
    asked = {first_split};
  }

  NC_DEVICE bool has_last() const { return end_split == splits; }
  NC_DEVICE int length_of(int split) const { return per_split < visible - split * per_split ? per_split : visible - split * per_split; }
  NC_DEVICE int key_of(const Place& place, int i) const { return place.item * per_split + place.from + i * kStep + group; }
  NC_DEVICE bool is_seen(const Place& place, int i) const { return place.from + i * kStep + group < length_of(place.item); }
  NC_DEVICE bool is_new(int key) const { return kAppends && key == visible - 1; }
  NC_DEVICE void advance(Place& place) const { place.advance(kAtOnce * kStep, length_of(place.item)); }
  NC_DEVICE void skip() { if (asked.item < end_split) advance(asked); }

  // Begins to copy the next piece; what it is copied over was read before.
  NC_DEVICE void ask(Shared* shared) {
    if (asked.item >= end_split) return;
    NC_UNROLL
    for (int i = 0; i < kAtOnce; i++) {
      const bool is_there = is_seen(asked, i) && !is_new(key_of(asked, i));
      const int64_t from = is_there ? static_cast<int64_t>(key_of(asked, i)) * Dp : 0;
      copy_async(&shared->ring[asked.slot][i][0][thread()], keys + from, is_there);
      copy_async(&shared->ring[asked.slot][i][1][thread()], values + from, is_there);
    }
    advance(asked);
  }

  // Rotated q, and where the run has the last split, k and v, which one head of each group also keeps.
  NC_DEVICE void take_new_token(const AppendKv<T>& a, Shared* shared) const {
    const int heads = a.H / a.K;
    const float* qkv = a.qkv + t * (a.H + 2 * a.K) * a.D;
    if (warp() == 0) write_rotated(a, qkv + head * a.D, t, shared->q);
    if (has_last() && warp() == 1) write_rotated(a, qkv + (a.H + kv_head) * a.D, t, shared->k);
    if (has_last() && warp() == 2) write_value(a, qkv + (a.H + a.K + kv_head) * a.D, token, t, kv_head, shared->v);
    sync_block();
    if (!has_last() || head % heads != 0) return;
    for (int value = 0; value < 2; value++) {
      T* out = head_cache<T>(a.rows[token.row], a.layer, value, a.K, kv_head, Dp) + static_cast<int64_t>(token.position) * Dp;
      for (int d = thread(); d < Dp; d += threads()) out[d] = value ? shared->v[d] : shared->k[d];
    }
  }

  // out (run, Dp) and shared->weights of each split; wait(piece) until the copies of a piece are there.
  template <class W> NC_DEVICE void attend(const T* q_row, float scale, Shared* shared, float* out, const W& wait) {
    const auto query = *reinterpret_cast<const Piece*>(q_row + part);
    float q[kCount];
    NC_UNROLL
    for (int e = 0; e < kCount; e++) q[e] = widen(query.at[e]) * scale;
    const int d = thread();
    Part<kCount> mine = {-INFINITY, 0, {}};
    int pieces = 0;
    for (Place place = {first_split}; place.item < end_split;) {
      wait(pieces++);
      Piece k[kAtOnce], v[kAtOnce];
      bool seen[kAtOnce];
      NC_UNROLL
      for (int i = 0; i < kAtOnce; i++) {
        seen[i] = is_seen(place, i);
        const bool from_qkv = seen[i] && is_new(key_of(place, i));
        k[i] = from_qkv ? *reinterpret_cast<const Piece*>(shared->k + part) : shared->ring[place.slot][i][0][thread()];
        v[i] = from_qkv ? *reinterpret_cast<const Piece*>(shared->v + part) : shared->ring[place.slot][i][1][thread()];
      }
      add_keys<T, kGroup>(mine, q, k, v, seen);
      ask(shared);
      commit_copies();
      const int split = place.item, parity = split % 2;
      advance(place);
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
      const Part<1> all = merge_warps<kWarps>(&shared->warp_weights[parity][0][0], &shared->warp_out[parity][0][d], Dp);
      out[(split - first_split) * Dp + d] = all.out[0];
      if (d > 0) continue;
      shared->weights[split][0] = all.largest;
      shared->weights[split][1] = all.sum;
    }
  }

  // The run's splits as one: partial (Dp), weights (2).
  NC_DEVICE void store_run(const Shared* shared, const float* out, float* partial, float* partial_weights) const {
    const int d = thread();
    if (d >= Dp) return;
    Part<1> all = {-INFINITY, 0, {0}};
    NC_NO_UNROLL
    for (int split = first_split; split < end_split; split++) merge(all, {shared->weights[split][0], shared->weights[split][1], {out[(split - first_split) * Dp + d]}});
    partial[d] = all.out[0];
    if (d > 0) return;
    partial_weights[0] = all.largest;
    partial_weights[1] = all.sum;
  }

  // y of the head, by the last block of its runs.
  NC_DEVICE void merge_runs(const Attention<T>& a, Shared* shared, const float* out) const {
    const int64_t at = t * a.H + head;
    const int d = thread();
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
      if (static_cast<int>(shared->arrived) < static_cast<int>(divide_up(splits, run))) return;
      publish();
      if (d == 0) a.arrived[at] = 0;
    } else {
      sync_block();
    }
    const int element = d < Dp ? d : 0;
    const float y = is_whole ? merge_splits(&shared->weights[0][0], out + element, Dp, splits) : merge_splits(partial_weights, partial + element, Dp, splits);
    if (d < a.D) a.y[t * a.y_stride + head * a.D + d] = narrow<T>(y);
  }
};

}  // namespace cuda
}  // namespace nanochat
