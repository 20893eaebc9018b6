// id = argmax, or the kept id with the largest logit / temperature + g                              MODEL.md 5: Gumbel-max
// logits (B, V) -> drawn (steps, B), and the row's next input token
// First, for rows with such options, a block per row finds the last (value, id) that top-k and top-p keep with histograms, by
// distance below the largest and then byte by byte. Then every block takes 2048 ids of a row; g is first estimated in
// float32, only ids whose estimate could win draw it again in float64; the last block of a row takes the best of all.
// Bound by latency and, with top-k or top-p, by a few passes over the row.
//
// Equal logits give the token that the CPU draws: values, g and their sums are the same floats, ties go to the lower id.
// Probabilities are added up as integers, so that the order of threads does not matter; a token can differ where the sum of
// the larger ones comes within 1e-9 of top_p, or a value within 1e-15 of min_p's edge.
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = kSampleIds / 4, kWarps = kThreads / kWarp;
constexpr float kEstimateError = 1e-3f;  // of g and of the sum, generously

using Best = Candidate;

constexpr float kBucketsPerUnit = 8;      // of distance below the largest value
constexpr double kMassUnit = 0x1p42;      // of the largest value's e^0: the sum of 2^22 ids fits into 64 bits

struct Shared {
  Best best[kWarps];
  uint32_t low[256], high[256], count[256];  // the sum of what keys weigh, and their number
  uint64_t wanted, inside;                   // what is to be reached in the bucket, and what it holds
  uint32_t bucket, inside_count;
};

NC_DEVICE Best better(Best a, Best b) { return b.id >= 0 && (a.id < 0 || b.value > a.value || (b.value == a.value && b.id < a.id)) ? b : a; }

NC_DEVICE Best block_best(Best mine, Shared* shared) {
  for (int m = kWarp / 2; m > 0; m /= 2) mine = better(mine, {shuffle_xor(mine.value, m), shuffle_xor(mine.id, m)});
  sync_block();
  if (lane() == 0) shared->best[warp()] = mine;
  sync_block();
  for (int w = 0; w < kWarps; w++) mine = better(mine, shared->best[w]);
  return mine;
}

// Larger for what comes earlier in the order (value descending, id ascending).
NC_DEVICE uint64_t key_of(float value, int id) {
  return static_cast<uint64_t>(ordered_bits(float_bits(value))) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}

NC_DEVICE int bucket_of(float value, float max) {
  const float distance = (max - value) * kBucketsPerUnit;
  return distance < 255 ? 255 - static_cast<int>(distance) : 0;
}

// note: two words with a carry, because shared memory adds words only
NC_DEVICE void add_weight(Shared* shared, int bucket, uint64_t weight) {
  const uint32_t low = static_cast<uint32_t>(weight), before = add_shared(&shared->low[bucket], low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before ? 1 : 0);
  if (high > 0) add_shared(&shared->high[bucket], high);
  add_shared(&shared->count[bucket], 1);
}

NC_DEVICE uint64_t weight_in(const Shared* shared, int bucket) { return static_cast<uint64_t>(shared->high[bucket]) << 32 | shared->low[bucket]; }

NC_DEVICE uint64_t shuffle_long(uint64_t v, int from) {
  const uint32_t low = shuffle(static_cast<uint32_t>(v), from), high = shuffle(static_cast<uint32_t>(v >> 32), from);
  return static_cast<uint64_t>(high) << 32 | low;
}

// Chooses the bucket, from the largest, in which the sum of weights reaches what is wanted; `wanted_of` says it of the whole sum.
template <class N> NC_DEVICE void find_bucket(Shared* shared, const N& wanted_of) {
  if (warp() != 0) return;
  uint64_t own = 0, through = 0;
  for (int i = 0; i < 8; i++) own += weight_in(shared, 255 - 8 * lane() - i);
  through = own;  // of this lane's buckets and those of lanes before
  for (int d = 1; d < kWarp; d *= 2) {
    const uint64_t before = shuffle_long(through, lane() - d < 0 ? 0 : lane() - d);
    if (lane() >= d) through += before;
  }
  const uint64_t wanted = wanted_of(shuffle_long(through, kWarp - 1));
  uint64_t above = through - own;
  if (above >= wanted || through < wanted) return;
  for (int i = 0; i < 8; i++) {
    const int bucket = 255 - 8 * lane() - i;
    const uint64_t inside = weight_in(shared, bucket);
    if (above < wanted && above + inside >= wanted) {
      shared->bucket = static_cast<uint32_t>(bucket);
      shared->wanted = wanted - above;
      shared->inside = inside;
      shared->inside_count = shared->count[bucket];
    }
    above += inside;
  }
}

NC_DEVICE bool keeps(const Kept& kept, float value, int id) {
  if (kept.all) return true;
  const int bucket = bucket_of(value, kept.max);
  return bucket > kept.bucket || (bucket == kept.bucket && key_of(value, id) >= kept.least);
}

// Shortens what is kept: in descending order, to where the sum of weights reaches what is wanted.
template <class W, class N>
NC_DEVICE void shorten(const float* logits, int V, float temperature, Kept* kept, Shared* shared, const W& weight_of, const N& wanted_of) {
  uint64_t prefix = 0, known = 0, wanted = 0;
  int near = -1;  // the bucket by distance, known after the first pass
  for (int shift = 64; shift >= 0; shift -= 8) {
    sync_block();
    for (int i = thread(); i < 256; i += kThreads) shared->low[i] = shared->high[i] = shared->count[i] = 0;
    sync_block();
    for (int id = thread(); id < V; id += kThreads) {
      const float value = logits[id] / temperature;
      const uint64_t key = key_of(value, id);
      const int bucket = bucket_of(value, kept->max);
      if (!keeps(*kept, value, id) || (near >= 0 && (bucket != near || (key & known) != prefix))) continue;
      add_weight(shared, near < 0 ? bucket : static_cast<int>(key >> shift & 255), weight_of(value));
    }
    sync_block();
    find_bucket(shared, [&](uint64_t total) { return near < 0 ? wanted_of(total) : wanted; });
    sync_block();
    wanted = shared->wanted;
    if (near < 0) {
      near = static_cast<int>(shared->bucket);
    } else {
      prefix |= static_cast<uint64_t>(shared->bucket) << shift;
      known |= uint64_t{255} << shift;
    }
    if (shared->inside == wanted || shared->inside_count == 1) break;
  }
  if (near > kept->bucket || prefix > kept->least) kept->least = prefix;
  kept->bucket = near;
}

NC_DEVICE Kept kept_of(const float* logits, int V, const Draw& draw, float max, Shared* shared) {
  Kept kept = {false, max, 0, 0, draw.min_p > 0 ? static_cast<double>(max) + log(draw.min_p) : -HUGE_VAL};
  if (draw.top_k > 0 && draw.top_k < V) {
    shorten(logits, V, draw.temperature, &kept, shared, [](float) { return uint64_t{1}; }, [&](uint64_t) { return static_cast<uint64_t>(draw.top_k); });
  }
  if (draw.top_p >= 1) return kept;
  const auto mass_of = [&](float value) { return static_cast<uint64_t>(exp(fmax(static_cast<double>(value) - max, -708.0)) * kMassUnit + 0.5); };
  shorten(logits, V, draw.temperature, &kept, shared, mass_of, [&](uint64_t total) {
    const uint64_t reached = static_cast<uint64_t>(ceil(draw.top_p * static_cast<double>(total)));
    return reached < 1 ? 1 : reached < total ? reached : total;
  });
  return kept;
}

NC_DEVICE float estimated_gumbel(uint32_t word) {
  const float below = (static_cast<float>(word) + 0.5f) * 0x1p-32f, above = (static_cast<float>(0xffffffffu - word) + 0.5f) * 0x1p-32f;
  return -logf(below < 0.5f ? -logf(below) : -log1pf(-above));
}

NC_DEVICE float exact_gumbel(uint32_t word) { return static_cast<float>(-log(-log((static_cast<double>(word) + 0.5) * 0x1p-32))); }

NC_DEVICE bool cuts(const Sample& a, const Draw& draw) { return draw.temperature != 0 && ((draw.top_k > 0 && draw.top_k < a.V) || draw.top_p < 1 || draw.min_p > 0); }

NC_KERNEL(kThreads) sample_cut_kernel(Sample a) {
  auto* shared = static_cast<Shared*>(shared_memory());
  start_next();
  wait_for_previous();
  const int row = block_x();
  const Draw draw = a.draws[row];
  if (draw.steps_left == 0) return;
  Kept kept = {true, 0, 0, 0, 0};
  if (cuts(a, draw)) {
    const float* logits = a.logits + static_cast<int64_t>(row) * a.V;
    Best mine = {0, -1};
    for (int i = thread(); i < a.V; i += kThreads) mine = better(mine, {logits[i], i});
    kept = kept_of(logits, a.V, draw, block_best(mine, shared).value / draw.temperature, shared);
  }
  if (thread() == 0) a.kept[row] = kept;
}

// The best of this block's ids: the largest logit, or logit / temperature + g.
NC_DEVICE Best best_of_block(const Sample& a, const Draw& draw, const float* logits, int position, const Kept& kept, Shared* shared) {
  const int first = block_x() * kSampleIds + 4 * thread();
  Best mine = {0, -1};
  if (draw.temperature == 0) {
    for (int i = 0; i < 4; i++) if (first + i < a.V) mine = better(mine, {logits[first + i], first + i});
    return block_best(mine, shared);
  }
  const PhiloxWords words = philox(draw.seed_low, draw.seed_high, static_cast<uint32_t>(first) / 4, static_cast<uint32_t>(draw.stream), static_cast<uint32_t>(position), 0);
  float value[4];
  bool kept_here[4];
  NC_UNROLL
  for (int i = 0; i < 4; i++) {
    value[i] = first + i < a.V ? logits[first + i] / draw.temperature : 0;
    kept_here[i] = first + i < a.V && (kept.all || (value[i] >= kept.floor && keeps(kept, value[i], first + i)));
    if (kept_here[i]) mine = better(mine, {value[i] + estimated_gumbel(words.word[i]), first + i});
  }
  const Best estimate = block_best(mine, shared);
  const float needed = estimate.value - kEstimateError * (1 + fabsf(estimate.value) * 1e-3f);
  Best exact = {0, -1};
  if (mine.id >= 0 && mine.value >= needed) {
    NC_UNROLL
    for (int i = 0; i < 4; i++) {
      if (kept_here[i] && value[i] + estimated_gumbel(words.word[i]) >= needed) exact = better(exact, {value[i] + exact_gumbel(words.word[i]), first + i});
    }
  }
  return block_best(exact, shared);
}

// The row's next input, and what is left to draw.
NC_DEVICE void take(const Sample& a, int row, const Draw& draw, const Token& token, int id) {
  a.drawn[static_cast<int64_t>(draw.taken) * a.B + row] = id;
  bool pauses = false;
  for (int i = 0; i < a.pause_ids[0]; i++) pauses = pauses || a.pause_ids[1 + i] == id;
  const int left = pauses ? 0 : draw.steps_left - 1;
  a.draws[row].taken = draw.taken + 1;
  a.draws[row].steps_left = left;
  // note: a row that is done keeps its input, so that later steps write nothing new.
  if (left > 0) a.tokens[row] = {id, token.id, token.position + 1, token.row};
}

NC_KERNEL(kThreads) sample_kernel(Sample a) {
  auto* shared = static_cast<Shared*>(shared_memory());
  start_next();
  wait_for_previous();
  const int row = block_y(), parts = sample_parts(a.V);
  const Draw draw = a.draws[row];
  if (draw.steps_left == 0) return;
  const Token token = a.tokens[row];
  const Kept kept = a.has_cuts ? a.kept[row] : Kept{true, 0, 0, 0, 0};
  const Best best = best_of_block(a, draw, a.logits + static_cast<int64_t>(row) * a.V, token.position + 1, kept, shared);
  if (warp() != 0) return;
  Candidate* candidates = a.candidates + static_cast<int64_t>(row) * parts;
  uint32_t before = 0;
  if (lane() == 0) {
    candidates[block_x()] = best;
    publish();
    before = add_global(&a.arrived[row], 1);
  }
  if (shuffle(before, 0) != static_cast<uint32_t>(parts - 1)) return;
  publish();
  Best all = {0, -1};
  for (int i = lane(); i < parts; i += kWarp) all = better(all, candidates[i]);
  for (int m = kWarp / 2; m > 0; m /= 2) all = better(all, {shuffle_xor(all.value, m), shuffle_xor(all.id, m)});
  if (lane() != 0) return;
  a.arrived[row] = 0;
  take(a, row, draw, token, all.id);
}

}  // namespace

void sample(Stream& stream, const Sample& a) {
  if (a.has_cuts) launch_overlapping(stream, "sample_cut", sample_cut_kernel, {a.B}, kThreads, sizeof(Shared), a);
  launch_overlapping(stream, "sample", sample_kernel, {sample_parts(a.V), a.B}, kThreads, sizeof(Shared), a);
}

}  // namespace cuda
}  // namespace nanochat
