// y = softmax(q k / sqrt(D)) v for up to 64 consecutive queries of a row, bf16                 MODEL.md 1: attention
// q (T, H, Dp), slots -> y (T, H D)
// A block per tile of queries and head, a warp per 16 of them. Keys and values come in tiles of 64 through two stages of
// shared memory; scores, running softmax and output stay in registers (mma m16n8k16), as in flash attention.
// Bound by tensor cores.
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128, kKeys = 64, kFragments = kKeys / 8;
constexpr float kLog2e = 1.44269504088896340736f;

// Copies `count` rows of Dp elements, the rest of the tile becomes zeros: what is beyond the last key may be anything.
template <int Dp> NC_DEVICE void load_tile(Chunk<bf16>* tile, const bf16* from, int64_t stride, int count) {
  constexpr int kChunks = Dp / 8;
  for (int i = thread(); i < kKeys * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = row < count;
    copy_async(tile + swizzle<kChunks>(row, chunk), from + (valid ? row : 0) * stride + chunk * 8, valid);
  }
}

template <int Dp> NC_KERNEL(kThreads) attention_prefill_kernel(AttentionPrefill p) {
  constexpr int kChunks = Dp / 8, kTileChunks = kKeys * kChunks;
  const Attention<bf16>& a = p.a;
  auto* queries = static_cast<Chunk<bf16>*>(shared_memory());  // (64, Dp)
  Chunk<bf16>* ring = queries + kTileQueries * kChunks;         // two stages of keys (64, Dp) and values (64, Dp)
  const QueryTile tile = p.tiles[block_x()];
  const int head = block_y(), kv_head = head / (a.H / a.K);
  const bf16* keys = head_cache<bf16>(a.rows[tile.row], a.layer, 0, a.K, kv_head, Dp);
  const bf16* values = head_cache<bf16>(a.rows[tile.row], a.layer, 1, a.K, kv_head, Dp);
  const int first = first_visible(tile.position, a.window), end = tile.position + tile.count;
  const int tiles = static_cast<int>(divide_up(end - first, kKeys));

  const auto load = [&](int j) {
    if (j < tiles) {
      Chunk<bf16>* stage = ring + j % 2 * 2 * kTileChunks;
      const int from = first + j * kKeys;
      load_tile<Dp>(stage, keys + static_cast<int64_t>(from) * Dp, Dp, end - from);
      load_tile<Dp>(stage + kTileChunks, values + static_cast<int64_t>(from) * Dp, Dp, end - from);
    }
    commit_copies();
  };

  load_tile<Dp>(queries, a.q + (static_cast<int64_t>(tile.first_token) * a.H + head) * Dp, static_cast<int64_t>(a.H) * Dp, tile.count);
  load(0);
  wait_copies<0>();
  sync_block();
  uint32_t q[Dp / 16][4];
  NC_UNROLL
  for (int k = 0; k < Dp / 16; k++) load_matrices(q[k], queries + swizzle<kChunks>(warp() * 16 + lane() % 16, 2 * k + lane() / 16));

  // a lane holds rows g and g + 8 of its warp's sixteen
  const int positions[2] = {tile.position + warp() * 16 + lane() / 4, tile.position + warp() * 16 + lane() / 4 + 8};
  float out[Dp / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  const float scale = a.scale * kLog2e;
  for (int j = 0; j < tiles; j++) {
    load(j + 1);
    wait_copies<1>();
    sync_block();
    const Chunk<bf16>* k_tile = ring + j % 2 * 2 * kTileChunks;
    const Chunk<bf16>* v_tile = k_tile + kTileChunks;

    float score[kFragments][4] = {};
    NC_UNROLL
    for (int k = 0; k < Dp / 16; k++) {
      NC_UNROLL
      for (int f = 0; f < kFragments; f += 2) {
        uint32_t right[4];
        load_matrices(right, k_tile + swizzle<kChunks>(8 * f + lane() % 8 + lane() / 16 * 8, 2 * k + lane() / 8 % 2));
        mma(score[f], q[k], right[0], right[1]);
        mma(score[f + 1], q[k], right[2], right[3]);
      }
    }

    float tile_largest[2] = {largest[0], largest[1]};
    NC_UNROLL
    for (int f = 0; f < kFragments; f++) {
      NC_UNROLL
      for (int e = 0; e < 4; e++) {
        const int key = first + j * kKeys + 8 * f + lane() % 4 * 2 + e % 2, position = positions[e / 2];
        const bool seen = key <= position && (a.window < 0 || key >= position - a.window);
        score[f][e] = seen ? score[f][e] * scale : -INFINITY;
        tile_largest[e / 2] = fmaxf(tile_largest[e / 2], score[f][e]);
      }
    }
    NC_UNROLL
    for (int r = 0; r < 2; r++) {
      for (int m = 1; m < 4; m *= 2) tile_largest[r] = fmaxf(tile_largest[r], shuffle_xor(tile_largest[r], m));
      const float shrink = largest[r] == -INFINITY ? 0 : exp2f(largest[r] - tile_largest[r]);
      largest[r] = tile_largest[r];
      sum[r] *= shrink;
      NC_UNROLL
      for (int d = 0; d < Dp / 8; d++) {
        out[d][2 * r] *= shrink;
        out[d][2 * r + 1] *= shrink;
      }
    }
    NC_UNROLL
    for (int f = 0; f < kFragments; f++) {
      NC_UNROLL
      for (int e = 0; e < 4; e++) {
        score[f][e] = score[f][e] == -INFINITY ? 0 : exp2f(score[f][e] - largest[e / 2]);
        sum[e / 2] += score[f][e];
      }
    }

    NC_UNROLL
    for (int k = 0; k < kKeys / 16; k++) {
      const uint32_t left[4] = {pack_bf16(score[2 * k][0], score[2 * k][1]), pack_bf16(score[2 * k][2], score[2 * k][3]),
                                pack_bf16(score[2 * k + 1][0], score[2 * k + 1][1]), pack_bf16(score[2 * k + 1][2], score[2 * k + 1][3])};
      NC_UNROLL
      for (int d = 0; d < Dp / 8; d += 2) {
        uint32_t right[4];
        load_matrices_transposed(right, v_tile + swizzle<kChunks>(16 * k + lane() % 16, d + lane() / 16));
        mma(out[d], left, right[0], right[1]);
        mma(out[d + 1], left, right[2], right[3]);
      }
    }
    sync_block();  // before the stage is filled again
  }
  wait_copies<0>();

  NC_UNROLL
  for (int r = 0; r < 2; r++) {
    for (int m = 1; m < 4; m *= 2) sum[r] += shuffle_xor(sum[r], m);
    const int query = warp() * 16 + lane() / 4 + 8 * r;
    if (query >= tile.count) continue;
    bf16* y = a.y + (tile.first_token + query) * a.y_stride + head * a.D;
    NC_UNROLL
    for (int d = 0; d < Dp / 8; d++) {
      NC_UNROLL
      for (int e = 0; e < 2; e++) {
        const int at = 8 * d + lane() % 4 * 2 + e;
        if (at < a.D) y[at] = round_bf16(out[d][2 * r + e] / sum[r]);
      }
    }
  }
}

template <int Dp> void launch_prefill(Stream& stream, const AttentionPrefill& p, int64_t tiles) {
  launch(stream, "attention_prefill", attention_prefill_kernel<Dp>, {tiles, p.a.H}, kThreads, (kTileQueries + 4 * kKeys) * Dp * sizeof(bf16), p);
}

}  // namespace

// note: rows of y are written 16 bytes at a time there.
bool prefill_takes_maps(const Stream& stream, int D) { return stream.is_hopper() && padded_head_dim(D) == 128 && D % 8 == 0; }

int tile_queries(const Stream& stream, int H, int D, int64_t T_) {
  return prefill_takes_maps(stream, D) && 4 * divide_up(T_, kTileQueries) * H > 5 * stream.processors() ? kHopperTileQueries : kTileQueries;
}

void prefill_maps(Stream& stream, const bf16* q, int64_t T_, int H, int64_t heads, const std::vector<Row>& rows, const std::vector<int64_t>& ends, TensorMap* maps) {
  constexpr int64_t kRowBytes = 128 * sizeof(bf16);
  stream.describe(maps, {q, {128, H, T_}, kRowBytes, H * kRowBytes, 1, 64});
  for (size_t r = 0; r < rows.size(); r++) stream.describe(maps + 1 + r, {rows[r].slot, {128, ends[r], heads}, kRowBytes, rows[r].capacity * kRowBytes, 128, 1});
}

void attention_prefill(Stream& stream, const AttentionPrefill& p, int64_t tiles) {
#ifdef __CUDACC__
  if (p.maps) return attention_prefill_sm90(stream, p, tiles);
#endif
  switch (p.a.Dp) {
    case 32: return launch_prefill<32>(stream, p, tiles);
    case 64: return launch_prefill<64>(stream, p, tiles);
    case 128: return launch_prefill<128>(stream, p, tiles);
  }
}

}  // namespace cuda
}  // namespace nanochat
