// y = softmax(q k / sqrt(D)) v for up to 128 consecutive queries of a row, bf16, Hopper           MODEL.md 1: attention
// q (T, H, 128), slots -> y (T, H D)
// As many blocks as multiprocessors take the pairs of a tile and a head in turn. One thread has the copy engine bring queries
// and a ring of 128 keys and values; two warpgroups of 64 queries each multiply (wgmma), and while one is at its softmax the
// other one's products run. Keys come latest first: the first block holds the diagonal, so every query sees a key in it.
// Bound by tensor cores, and nearly as much by exponentials: on an H100, causal, 16 heads of 128, 510 TFLOP/s at 2048 tokens
// and 560 at 8192, 57 % of the datasheet's 989.
#include <algorithm>

#include "cuda/hopper.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kGroupQueries = 64, kKeys = 128, kDp = 128, kStages = 2;

struct Params {
  AttentionPrefill p;
  int pairs;                                     // of a tile and a head
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr int kPanel = 64;                       // elements of a row that one swizzled row of 128 bytes holds
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
constexpr float kLog2e = 1.44269504088896340736f;

// Tiles are two panels of 64 elements per row; 16-byte chunk c of row r lies at chunk c ^ (r % 8).
template <int kGroups> struct Shared {
  bf16 q[kGroups][2][kGroupQueries * kPanel];
  bf16 keys[kStages][2][kKeys * kPanel], values[kStages][2][kKeys * kPanel];
  Barrier q_full, q_empty, keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

// As wait_barrier. note: this loop is the one that was measured; the one of hopper.h compiles to other code here.
NC_DEVICE void wait_phase(Barrier* b, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done) : "r"(shared_address(b)), "r"(parity) : "memory");
  }
}
// Barriers of the hardware, by number, for two warpgroups.
NC_DEVICE void sync_named(int b) { asm volatile("bar.sync %0, 256;" ::"r"(b) : "memory"); }
NC_DEVICE void arrive_named(int b) { asm volatile("bar.arrive %0, 256;" ::"r"(b) : "memory"); }

// note: the map was written by the host's copy, which the copy engine does not order with its own reads.
NC_DEVICE void acquire_map(const TensorMap* map) { asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory"); }
NC_DEVICE void load_box(void* to, const TensorMap* map, int x, int y, int z, Barrier* b) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(to)), "l"(map), "r"(x),
               "r"(y), "r"(z), "r"(shared_address(b)) : "memory");
}

// c (64, 128) += a (64, 16) b (16, 128), a in registers as mma has it.
NC_DEVICE void multiply_add(float (&c)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NC_C3 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
               : NC_O3 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// Keeps the compiler from moving what it does with registers across: products read and write them on their own.
NC_DEVICE void pin(float (&c)[64]) { asm volatile("" : NC_O3::"memory"); }
template <int n> NC_DEVICE void pin(uint32_t (&a)[n]) {
  NC_UNROLL
  for (int i = 0; i < n; i++) asm volatile("" : "+r"(a[i])::"memory");
}

NC_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A tile and a head. Block j of its keys begins at position - 128 j, or where the tile's first visible key is.
struct Pair {
  QueryTile tile;
  int head, first, blocks;
  NC_DEVICE int from(int j) const { return max(tile.position - kKeys * j, first); }
};

NC_DEVICE Pair pair_at(const AttentionPrefill& p, int i) {
  Pair pair;
  pair.tile = p.tiles[i / p.a.H];
  pair.head = i % p.a.H;
  pair.first = first_visible(pair.tile.position, p.a.window);
  pair.blocks = 1 + (pair.tile.position - pair.first + kKeys - 1) / kKeys;
  return pair;
}

// Calls for each of this block's pairs, in rounds whose direction alternates: tiles are sorted by their work.
template <class F> NC_DEVICE void for_each_pair(const Params& params, const F& call) {
  const int blocks = static_cast<int>(gridDim.x);
  for (int round = 0; round * blocks < params.pairs; round++) {
    const int i = round * blocks + (round % 2 ? blocks - 1 - block_x() : block_x());
    if (i < params.pairs) call(pair_at(params.p, i));
  }
}

template <int kGroups> NC_DEVICE void produce(const Params& params, Shared<kGroups>& s) {
  const AttentionPrefill& p = params.p;
  int done = 0, acquired = p.tiles[block_x() / p.a.H].row;
  uint32_t step = 0;  // blocks of keys so far
  for_each_pair(params, [&](const Pair& pair) {
    const TensorMap* slot = p.maps + 1 + pair.tile.row;
    const int kv_head = pair.head / (p.a.H / p.a.K);
    if (acquired != pair.tile.row) acquire_map(slot);
    acquired = pair.tile.row;
    const auto load = [&](int j, int value, Barrier* full, Barrier* empty, bf16 (*ring)[2][kKeys * kPanel]) {
      const uint32_t stage = (step + j) % kStages;
      wait_phase(empty + stage, (step + j) / kStages % 2 ^ 1);
      expect_bytes(full + stage, 2 * sizeof ring[0][0]);
      for (int panel = 0; panel < 2; panel++) {
        load_box(ring[stage][panel], slot, panel * kPanel, pair.from(j), (p.a.layer * 2 + value) * p.a.K + kv_head, full + stage);
      }
    };
    const auto load_keys = [&](int j) { load(j, 0, s.keys_full, s.keys_empty, s.keys); };
    load_keys(0);
    wait_phase(&s.q_empty, done % 2 ^ 1);
    expect_bytes(&s.q_full, sizeof s.q);
    for (int group = 0; group < kGroups; group++) {
      for (int panel = 0; panel < 2; panel++) load_box(s.q[group][panel], p.maps, panel * kPanel, pair.head, pair.tile.first_token + group * kGroupQueries, &s.q_full);
    }
    for (int j = 0; j < pair.blocks; j++) {
      if (j + 1 < pair.blocks) load_keys(j + 1);
      load(j, 1, s.values_full, s.values_empty, s.values);
    }
    step += pair.blocks;
    done++;
  });
}

// Lane q of a quad has word q of four chunks of 16 bytes and gets all of chunk q.
NC_DEVICE void transpose_quad(uint32_t (&w)[4]) {
  const bool odd = lane() & 1, upper = lane() & 2;
  NC_UNROLL
  for (int k = 0; k < 4; k += 2) {
    const uint32_t got = shuffle_xor(odd ? w[k] : w[k + 1], 1);
    if (odd) w[k] = got;
    else w[k + 1] = got;
  }
  NC_UNROLL
  for (int k = 0; k < 2; k++) {
    const uint32_t got = shuffle_xor(upper ? w[k] : w[k + 2], 2);
    if (upper) w[k] = got;
    else w[k + 2] = got;
  }
}

// What a lane has of the softmax of rows g and g + 8 of its warp's sixteen. note: `largest` follows the largest score only when
// that is 256 times its weight ahead, because to follow means to multiply all of the output.
struct Softmax {
  float scale, slack, largest[2], sum[2];

  // score = exp2(scale (score - largest)); what was summed so far is to be multiplied by `shrink`.
  template <bool begins> NC_DEVICE void add(float (&score)[64], float (&shrink)[2]) {
    NC_UNROLL
    for (int r = 0; r < 2; r++) {
      float most = begins ? -INFINITY : largest[r];
      NC_UNROLL
      for (int f = 0; f < 16; f++) most = fmaxf(most, fmaxf(score[4 * f + 2 * r], score[4 * f + 2 * r + 1]));
      for (int m = 1; m < 4; m *= 2) most = fmaxf(most, shuffle_xor(most, m));
      if (!begins && most <= largest[r] + slack) most = largest[r];
      shrink[r] = begins ? 0 : exp2_fast((largest[r] - most) * scale);
      largest[r] = most;
      sum[r] = begins ? 0 : sum[r] * shrink[r];
      const float offset = most * scale;
      NC_UNROLL
      for (int f = 0; f < 16; f++) {
        NC_UNROLL
        for (int e = 2 * r; e < 2 * r + 2; e++) {
          score[4 * f + e] = exp2_fast(score[4 * f + e] * scale - offset);
          sum[r] += score[4 * f + e];
        }
      }
    }
  }
};

// Of keys from.., those after the query or the block, or before the window, get no weight.
NC_DEVICE void mask(float (&score)[64], int from, int end, int window, int position) {
  NC_UNROLL
  for (int r = 0; r < 2; r++) {
    const int own = position + 8 * r, last = min(own, end - 1) - from - lane() % 4 * 2, first = window < 0 ? -kKeys : own - window - from - lane() % 4 * 2;
    NC_UNROLL
    for (int f = 0; f < 16; f++) {
      NC_UNROLL
      for (int e = 0; e < 2; e++) {
        if (8 * f + e > last || 8 * f + e < first) score[4 * f + 2 * r + e] = -INFINITY;
      }
    }
  }
}

NC_DEVICE void pack(uint32_t (&weights)[32], const float (&score)[64]) {
  NC_UNROLL
  for (int i = 0; i < 32; i++) weights[i] = pack_bf16(score[2 * i], score[2 * i + 1]);
}

template <int kGroups> NC_DEVICE void consume(const Params& params, Shared<kGroups>& s) {
  const Attention<bf16>& a = params.p.a;
  const int group = warp() / 4 - 1, row = group * kGroupQueries + warp() % 4 * 16 + lane() / 4;
  const uint64_t q = describe_operand(s.q[group]);
  const auto release = [](Barrier* b) {
    if (lane() == 0) arrive(b);
  };
  float out[64], score[64], shrink[2];
  uint32_t weights[32];
  Softmax softmax;
  softmax.scale = a.scale * kLog2e;
  softmax.slack = 8 / softmax.scale;
  // score = q k^T
  const auto begin_scores = [&](uint32_t stage) {
    const uint64_t keys = describe_operand(s.keys[stage]);
    multiply<kKeys>(score, q, keys, 0);
    NC_UNROLL
    for (int k = 1; k < kDp / 16; k++) multiply<kKeys>(score, q + k / 4 * (sizeof s.q[0][0] / 16) + k % 4 * 2, keys + k / 4 * (sizeof s.keys[0][0] / 16) + k % 4 * 2, 1);
    commit_products();
  };
  // out += weights v
  const auto begin_out = [&](uint32_t stage) {
    const uint64_t values = describe_operand(s.values[stage], sizeof s.values[0][0]);
    NC_UNROLL
    for (int k = 0; k < kKeys / 16; k++) multiply_add(out, weights + 4 * k, values + k * (16 * kPanel * sizeof(bf16) / 16));
    commit_products();
  };

  int done = 0;
  uint32_t step = 0;
  if (kGroups == 2 && group == 1) arrive_named(1);
  for_each_pair(params, [&](const Pair& pair) {
    const int position = pair.tile.position + row, latest = pair.tile.position + (group + 1) * kGroupQueries - 1;
    NC_UNROLL
    for (int i = 0; i < 64; i++) out[i] = 0;
    wait_phase(&s.q_full, done % 2);
    wait_phase(s.keys_full + step % kStages, step / kStages % 2);
    pin(score);
    begin_products();
    begin_scores(step % kStages);
    wait_products<0>();
    pin(score);
    release(s.keys_empty + step % kStages);
    if (pair.blocks == 1) release(&s.q_empty);
    mask(score, pair.tile.position, pair.tile.position + kKeys, a.window, position);
    softmax.add<true>(score, shrink);
    pack(weights, score);

    for (int j = 1; j < pair.blocks; j++) {
      const uint32_t stage = (step + 1) % kStages, before = step % kStages;
      wait_phase(s.keys_full + stage, (step + 1) / kStages % 2);
      wait_phase(s.values_full + before, step / kStages % 2);
      if (kGroups == 2) sync_named(1 + group);
      pin(score);
      pin(out);
      pin(weights);
      begin_products();
      begin_scores(stage);
      begin_out(before);
      if (kGroups == 2) arrive_named(2 - group);
      wait_products<1>();
      pin(score);
      release(s.keys_empty + stage);
      if (j + 1 == pair.blocks) release(&s.q_empty);
      const int from = pair.from(j), nominal = pair.tile.position - kKeys * j;
      if (from > nominal || (a.window >= 0 && from < latest - a.window)) mask(score, from, nominal + kKeys, a.window, position);
      softmax.add<false>(score, shrink);
      wait_products<0>();
      pin(out);
      release(s.values_empty + before);
      pack(weights, score);
      if (any(shrink[0] != 1 || shrink[1] != 1)) {
        NC_UNROLL
        for (int i = 0; i < 64; i++) out[i] *= shrink[i / 2 % 2];
      }
      step++;
    }
    wait_phase(s.values_full + step % kStages, step / kStages % 2);
    pin(out);
    pin(weights);
    begin_products();
    begin_out(step % kStages);
    wait_products<0>();
    pin(out);
    release(s.values_empty + step % kStages);
    step++;
    done++;

    NC_UNROLL
    for (int r = 0; r < 2; r++) {
      float sum = softmax.sum[r];
      for (int m = 1; m < 4; m *= 2) sum += shuffle_xor(sum, m);
      const float scale = 1 / sum;
      bf16* y = a.y + static_cast<int64_t>(pair.tile.first_token + row + 8 * r) * a.y_stride + pair.head * a.D;
      NC_UNROLL
      for (int f = 0; f < 16; f += 4) {
        uint32_t words[4];
        NC_UNROLL
        for (int i = 0; i < 4; i++) words[i] = pack_bf16(out[4 * (f + i) + 2 * r] * scale, out[4 * (f + i) + 2 * r + 1] * scale);
        transpose_quad(words);
        const int at = 8 * (f + lane() % 4);
        if (row + 8 * r < pair.tile.count && at < a.D) *reinterpret_cast<uint4*>(y + at) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  });
}

#endif

constexpr int threads_of(int groups) { return 128 * (1 + groups); }

template <int kGroups> __global__ void __launch_bounds__(threads_of(kGroups), 1) attention_prefill_hopper_kernel(const __grid_constant__ Params params) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char nc_swizzled[];
  auto& s = *reinterpret_cast<Shared<kGroups>*>(nc_swizzled);
  start_next();
  if (thread() == 0) {
    acquire_map(params.p.maps);
    acquire_map(params.p.maps + 1 + params.p.tiles[block_x() / params.p.a.H].row);
  } else if (thread() == kWarp) {
    init_barrier(&s.q_full, 1);
    init_barrier(&s.q_empty, kGroups * 4);
    for (int i = 0; i < kStages; i++) {
      init_barrier(s.keys_full + i, 1);
      init_barrier(s.values_full + i, 1);
      init_barrier(s.keys_empty + i, kGroups * 4);
      init_barrier(s.values_empty + i, kGroups * 4);
    }
    publish_barriers();
  }
  sync_block();
  if (warp() < 4) {
    give_registers<kProducerRegisters>();
    if (thread() == 0) {
      wait_for_previous();
      produce(params, s);
    }
  } else {
    take_registers<kConsumerRegisters>();
    consume(params, s);
  }
#endif
}

template <int kGroups> void launch_prefill(Stream& stream, const AttentionPrefill& p, int64_t pairs) {
  constexpr size_t kSharedBytes = (kGroups * kGroupQueries + 2 * kStages * kKeys) * kDp * sizeof(bf16) + (2 + 4 * kStages) * sizeof(uint64_t);  // of Shared
  launch_overlapping(stream, "attention_prefill_sm90", attention_prefill_hopper_kernel<kGroups>, {std::min<int64_t>(pairs, stream.processors())}, threads_of(kGroups), kSharedBytes,
                     Params{p, static_cast<int>(pairs)});
}

}  // namespace

void attention_prefill_sm90(Stream& stream, const AttentionPrefill& p, int64_t tiles) {
  if (p.tile_queries > kGroupQueries) launch_prefill<2>(stream, p, tiles * p.a.H);
  else launch_prefill<1>(stream, p, tiles * p.a.H);
}

}  // namespace cuda
}  // namespace nanochat
