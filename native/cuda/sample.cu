// id = argmax, or the kept id with the largest logit / temperature + g                              MODEL.md 5: Gumbel-max
// logits (B, V) -> drawn (steps, B), and the row's next input token
// A block per row. Top-k finds the k-th largest (value, id) byte by byte with histograms. g is first estimated in float32;
// only threads whose best estimate could win draw it again in float64, as the definition has it.
// Bound by latency and, with top-k, by a few passes over the row.
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;
constexpr float kEstimateError = 1e-3f;  // of g and of the sum, generously

struct Best {
  float value;
  int32_t id;
};

struct Shared {
  Best best[kWarps];
  uint32_t histogram[256];
  uint32_t bucket, above, inside;
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

// The bucket, from the largest, in which the count of keys reaches `wanted`, with how many keys are above and inside it.
NC_DEVICE void find_bucket(Shared* shared, uint32_t wanted) {
  if (warp() != 0) return;
  uint32_t own = 0, below[8];
  NC_UNROLL
  for (int i = 0; i < 8; i++) {
    below[i] = own;
    own += shared->histogram[255 - 8 * lane() - i];
  }
  uint32_t through = own;  // of this lane's buckets and those of lanes before
  for (int d = 1; d < kWarp; d *= 2) {
    const uint32_t before = shuffle(through, lane() - d < 0 ? 0 : lane() - d);
    if (lane() >= d) through += before;
  }
  const uint32_t before = through - own;
  if (before >= wanted || through < wanted) return;
  NC_UNROLL
  for (int i = 0; i < 8; i++) {
    const uint32_t inside = shared->histogram[255 - 8 * lane() - i];
    if (before + below[i] < wanted && before + below[i] + inside >= wanted) {
      shared->bucket = static_cast<uint32_t>(255 - 8 * lane() - i);
      shared->above = before + below[i];
      shared->inside = inside;
    }
  }
}

// The least key that top-k keeps.
NC_DEVICE uint64_t least_kept(const float* logits, int V, float temperature, uint32_t k, Shared* shared) {
  uint64_t prefix = 0, known = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    sync_block();
    for (int i = thread(); i < 256; i += kThreads) shared->histogram[i] = 0;
    sync_block();
    for (int id = thread(); id < V; id += kThreads) {
      const uint64_t key = key_of(logits[id] / temperature, id);
      if ((key & known) == prefix) add_shared(&shared->histogram[key >> shift & 255], 1);
    }
    sync_block();
    find_bucket(shared, k);
    sync_block();
    prefix |= static_cast<uint64_t>(shared->bucket) << shift;
    known |= uint64_t{255} << shift;
    k -= shared->above;
    if (shared->inside == k) break;
  }
  return prefix;
}

NC_DEVICE float estimated_gumbel(uint32_t word) {
  const float below = (static_cast<float>(word) + 0.5f) * 0x1p-32f, above = (static_cast<float>(0xffffffffu - word) + 0.5f) * 0x1p-32f;
  return -logf(below < 0.5f ? -logf(below) : -log1pf(-above));
}

NC_DEVICE float exact_gumbel(uint32_t word) { return static_cast<float>(-log(-log((static_cast<double>(word) + 0.5) * 0x1p-32))); }

template <class F> NC_DEVICE void each_kept(const Sample& a, const Draw& draw, const float* logits, int position, uint64_t least, const F& f) {
  for (int first = 4 * thread(); first < a.V; first += 4 * kThreads) {
    const PhiloxWords words = philox(draw.seed_low, draw.seed_high, static_cast<uint32_t>(first) / 4, static_cast<uint32_t>(draw.stream), static_cast<uint32_t>(position), 0);
    NC_UNROLL
    for (int i = 0; i < 4; i++) {
      if (first + i >= a.V) continue;
      const float value = logits[first + i] / draw.temperature;
      if (key_of(value, first + i) >= least) f(first + i, value, words.word[i]);
    }
  }
}

NC_DEVICE int gumbel_max(const Sample& a, const Draw& draw, const float* logits, int position, uint64_t least, Shared* shared) {
  Best mine = {0, -1};
  each_kept(a, draw, logits, position, least, [&](int id, float value, uint32_t word) { mine = better(mine, {value + estimated_gumbel(word), id}); });
  const Best estimate = block_best(mine, shared);
  const float needed = estimate.value - kEstimateError * (1 + fabsf(estimate.value) * 1e-3f);
  const bool may_win = mine.id >= 0 && mine.value >= needed;
  Best exact = {0, -1};
  if (may_win) {
    each_kept(a, draw, logits, position, least, [&](int id, float value, uint32_t word) {
      if (value + estimated_gumbel(word) >= needed) exact = better(exact, {value + exact_gumbel(word), id});
    });
  }
  return block_best(exact, shared).id;
}

NC_KERNEL(kThreads) sample_kernel(Sample a) {
  auto* shared = static_cast<Shared*>(shared_memory());
  wait_for_previous();
  start_next();
  const int row = block_x();
  const Draw draw = a.draws[row];
  if (draw.steps_left == 0) return;
  const float* logits = a.logits + static_cast<int64_t>(row) * a.V;
  const Token token = a.tokens[row];
  int id;
  if (draw.temperature == 0) {
    Best mine = {0, -1};
    for (int i = thread(); i < a.V; i += kThreads) mine = better(mine, {logits[i], i});
    id = block_best(mine, shared).id;
  } else {
    const bool cut = draw.top_k > 0 && draw.top_k < a.V;
    const uint64_t least = cut ? least_kept(logits, a.V, draw.temperature, static_cast<uint32_t>(draw.top_k), shared) : 0;
    id = gumbel_max(a, draw, logits, token.position + 1, least, shared);
  }
  if (thread() != 0) return;
  a.drawn[static_cast<int64_t>(draw.taken) * a.B + row] = id;
  bool pauses = false;
  for (int i = 0; i < a.pause_ids[0]; i++) pauses = pauses || a.pause_ids[1 + i] == id;
  const int left = pauses ? 0 : draw.steps_left - 1;
  a.draws[row].taken = draw.taken + 1;
  a.draws[row].steps_left = left;
  // note: a row that is done keeps its input, so that later steps write nothing new.
  if (left > 0) a.tokens[row] = {id, token.id, token.position + 1, token.row};
}

}  // namespace

void sample(Stream& stream, const Sample& a) { launch_overlapping(stream, "sample", sample_kernel, {a.B}, kThreads, sizeof(Shared), a); }

}  // namespace cuda
}  // namespace nanochat
