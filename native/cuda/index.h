// The arithmetic of places: pure functions that kernels, host and tests share. No device needed to check them.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define NC_BOTH __host__ __device__
#else
#define NC_BOTH
#endif

namespace nanochat {
namespace cuda {

constexpr int kWarp = 32;
constexpr int kRowUnit = 64;    // rows of matrices and of activations that enter a product are padded to this, with zeros
constexpr int kMaxSplits = 32;  // pieces of one query's keys
constexpr int kLeastSplit = 64;  // keys
constexpr int kGemvRows = 4;    // rows of a product whose outputs are sums of a warp
constexpr int kSkinnyRows = 64, kSkinnyOutputs = 32;  // of a block's tile, where the weights are the tall side
constexpr int64_t kPartialOutputs = kSkinnyRows * kSkinnyOutputs;  // floats that a processor has of a tile it shares

NC_BOTH constexpr int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
NC_BOTH constexpr int64_t pad_to(int64_t value, int64_t unit) { return divide_up(value, unit) * unit; }

// The head dimensions that kernels are compiled for; 0: none is large enough.
NC_BOTH constexpr int padded_head_dim(int D) { return D <= 32 ? 32 : D <= 64 ? 64 : D <= 128 ? 128 : 0; }

// Where 16-byte chunk `chunk` of row `row` lies in a shared tile of `kChunks` chunks per row: eight rows of one chunk, as
// ldmatrix reads them, fall into different banks.
template <int kChunks> NC_BOTH constexpr int swizzle(int row, int chunk) {
  static_assert(kChunks == 4 || kChunks % 8 == 0, "rows of 64 bytes or of multiples of 128");
  return row * kChunks + (kChunks == 4 ? chunk ^ ((row >> 1) & 3) : chunk ^ (row & 7));
}

// First key that the query at `position` sees; the last is its own.
NC_BOTH constexpr int first_visible(int position, int window) { return window < 0 || position <= window ? 0 : position - window; }

// How a query's visible keys are split. note: of their number alone, so that a row's sums do not depend on its batch.
NC_BOTH constexpr int keys_per_split(int visible) {
  const int even = static_cast<int>(pad_to(divide_up(visible, kMaxSplits), 32));
  return even < kLeastSplit ? kLeastSplit : even;
}
NC_BOTH constexpr int split_count(int visible) { return static_cast<int>(divide_up(visible, keys_per_split(visible))); }
// The most that any query with up to `visible` keys has; not the last one's: 2048 keys have 32 splits, 2049 have 22.
NC_BOTH constexpr int most_splits(int visible) {
  const int64_t most = divide_up(visible, kLeastSplit);
  return static_cast<int>(most < kMaxSplits ? most : kMaxSplits);
}

// How a block's warps share its outputs: `outputs` at a time for each team of `team` warps, which split k.
struct GemvPlan {
  int per_block, outputs, team;
};
constexpr int kGemvWarps = 16, kGemvMostOutputs = 2;

// chunks: of 16 bytes in a row of weights.
NC_BOTH constexpr GemvPlan gemv_plan(int outputs, int64_t chunks, int processors) {
  const int per_block = static_cast<int>(divide_up(outputs, processors));
  int best = 1;
  int64_t least = divide_up(per_block, kGemvWarps);
  for (int at_once = 2; at_once <= kGemvMostOutputs; at_once *= 2) {
    const int64_t cost = divide_up(divide_up(per_block, at_once), kGemvWarps) * at_once;
    if (cost <= least) {
      best = at_once;
      least = cost;
    }
  }
  int team = 1;
  while (divide_up(per_block, best) * team * 2 <= kGemvWarps && chunks >= int64_t{2} * team * kWarp) team *= 2;
  return {per_block, best, team};
}

// What a block has of a matrix in a step that is one kernel: consecutive outputs, whose weights are one array of `parts` times 16
// bytes. Each warp takes the next steps * kWarp of these, so that all are at work whatever the outputs are.
struct StepShare {
  int first, count, parts, steps;
};
constexpr int kStepWarps = 16;

// chunks: of 16 bytes in a row of weights.
NC_BOTH constexpr StepShare step_share(int outputs, int chunks, int block, int blocks) {
  const int per_block = static_cast<int>(divide_up(outputs, blocks)), first = block * per_block < outputs ? block * per_block : outputs;
  const int count = per_block < outputs - first ? per_block : outputs - first;
  return {first, count, count * chunks, static_cast<int>(divide_up(int64_t{count} * chunks, kStepWarps * kWarp))};
}

// Architectures whose processors have the shared memory for it: 227 KB.
NC_BOTH constexpr bool has_step_kernel(int architecture) { return architecture == 900 || (architecture >= 1000 && architecture < 1200); }

// Splits that a block takes of a head, so that all heads' runs fill the device once.
NC_BOTH constexpr int step_run(int splits, int heads, int blocks) { return static_cast<int>(divide_up(splits, blocks < heads ? 1 : blocks / heads)); }

// note: with many outputs large tiles fill the device too, and read x less often.
NC_BOTH constexpr bool is_skinny(int rows, int outputs, int processors) { return rows <= 32 || (rows <= kSkinnyRows && outputs < 128 * processors); }

// Pieces of k that a skinny product is split into, so that its blocks fill the device once.
NC_BOTH constexpr int skinny_pieces(int outputs, int64_t stride, int processors) {
  const int64_t tiles = divide_up(outputs, kSkinnyOutputs), most = divide_up(stride, 512), fill = processors / tiles;
  return static_cast<int>(fill < 1 ? 1 : fill < most ? fill : most);
}

// What a block adds to the counter of a grid's barrier: all of them together turn its highest bit and leave the others zero.
constexpr uint32_t kGridTurn = 0x80000000u;
NC_BOTH constexpr uint32_t grid_arrival(int block, int blocks) { return block == 0 ? kGridTurn - static_cast<uint32_t>(blocks - 1) : 1; }

constexpr int kSampleIds = 2048;  // that a block draws among
NC_BOTH constexpr int sample_parts(int V) { return static_cast<int>(divide_up(V, kSampleIds)); }

// Tiles of a product in the order in which a Hopper takes them: down the rows, then the next outputs, so that what is at work
// at once shares rows of x and of w in the L2 cache. note: many rows go in bands, else x does not stay there.
struct TileGrid {
  struct At {
    int row, output;
  };
  int down, across, band;
  NC_BOTH constexpr int tiles() const { return down * across; }
  NC_BOTH constexpr At at(int tile) const {
    const int first = tile / (band * across) * band, rest = tile - first * across;
    const int height = down - first < band ? down - first : band;
    return {first + rest % height, rest / height};
  }
};
constexpr int kBandRows = 2048;
NC_BOTH constexpr TileGrid tile_grid(int rows, int outputs, int tile_rows, int tile_outputs) {
  return {static_cast<int>(divide_up(rows, tile_rows)), static_cast<int>(divide_up(outputs, tile_outputs)), kBandRows / tile_rows};
}

constexpr int kHopperLeastRows = 64;  // with more, its tiles are the fastest
// Shapes of tiles that the Hopper product is compiled for: kHopperRows rows x `outputs`, `blocks` of them in a cluster.
struct HopperTile {
  int outputs, blocks;
};
constexpr int kHopperRows = 128;
constexpr HopperTile kHopperTiles[] = {{32, 1}, {64, 1}, {64, 2}, {96, 2}, {128, 2}, {160, 2}, {192, 2}, {208, 2}, {256, 2}};
constexpr int kHopperTileCount = sizeof(kHopperTiles) / sizeof(kHopperTiles[0]);

// Cycles that a product takes in tiles of one shape, by a fit to measurements on an H100 that picks within 1 % of the best on
// average. A slice of 64 k costs what shared memory takes to fill and to read it, a tile what its stores take.
constexpr int64_t hopper_cycles(const HopperTile& tile, int64_t rows, int64_t outputs, int64_t k, int multiprocessors) {
  const int64_t clusters = divide_up(rows, kHopperRows * tile.blocks) * divide_up(outputs, tile.outputs);
  const int64_t at_once = multiprocessors < tile.blocks ? 1 : multiprocessors / tile.blocks;
  return divide_up(clusters, at_once) * (divide_up(k, 64) * (128 + (tile.blocks == 1 ? 32 : 0) + 3 * tile.outputs) + 20 * tile.outputs);
}
// The shape that suits a product, as an index into kHopperTiles.
constexpr int hopper_tile(int64_t rows, int64_t outputs, int64_t k, int multiprocessors) {
  int best = 0;
  for (int i = 1; i < kHopperTileCount; i++) {
    if (hopper_cycles(kHopperTiles[i], rows, outputs, k, multiprocessors) < hopper_cycles(kHopperTiles[best], rows, outputs, k, multiprocessors)) best = i;
  }
  return best;
}

// A float as an unsigned integer of the same order; -0 and 0 are equal.
NC_BOTH constexpr uint32_t ordered_bits(uint32_t bits) { return bits == 0x80000000u ? 0x80000000u : bits & 0x80000000u ? ~bits : bits | 0x80000000u; }

struct PhiloxWords {
  uint32_t word[4];
};

// One block of Philox4x32-10 (Salmon et al. 2011), MODEL.md 5.
NC_BOTH constexpr PhiloxWords philox(uint32_t key0, uint32_t key1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c0, p1 = uint64_t{0xcd9e8d57u} * c2;
    const uint32_t high0 = static_cast<uint32_t>(p0 >> 32), high1 = static_cast<uint32_t>(p1 >> 32);
    c0 = high1 ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(p1);
    c2 = high0 ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(p0);
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

struct CosSin {
  double cos, sin;
};

// cos and sin of an angle of 0 to 2^24, to 1e-9: reduced by multiples of pi/2, then Taylor series on [-pi/4, pi/4].
// note: the library's own functions keep a table in local memory for large angles.
NC_BOTH constexpr CosSin cos_sin(double angle) {
  const int64_t quarter = static_cast<int64_t>(angle * 0.63661977236758134308 + 0.5);
  // pi/2 in two parts, the first with 33 significant bits: its multiples are exact
  const double x = (angle - static_cast<double>(quarter) * 1.57079632673412561417e+00) - static_cast<double>(quarter) * 6.07710050650619224932e-11;
  const double z = x * x;
  const double s = x * (1 + z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800))))));
  const double c = 1 + z * (-0.5 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600))))));
  switch (quarter & 3) {
    case 0: return {c, s};
    case 1: return {-s, c};
    case 2: return {-c, -s};
    default: return {s, -c};
  }
}

}  // namespace cuda
}  // namespace nanochat
