#include <algorithm>
#include <set>

#include "cuda/index.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

template <int kChunks> void check_swizzle() {
  std::set<int> places;
  for (int row = 0; row < 64; row++) {
    for (int chunk = 0; chunk < kChunks; chunk++) places.insert(swizzle<kChunks>(row, chunk));
  }
  expect(places.size() == 64 * kChunks && *places.begin() == 0 && *places.rbegin() == 64 * kChunks - 1, "a swizzle is a permutation");
  for (int row = 0; row < 64; row += 8) {
    for (int chunk = 0; chunk < kChunks; chunk++) {
      std::set<int> banks;
      for (int r = 0; r < 8; r++) banks.insert(swizzle<kChunks>(row + r, chunk) % 8);
      expect(banks.size() == 8, "eight rows of a chunk lie in different banks");
    }
  }
}

void check_tile_grid(int rows, int outputs, int tile_rows, int tile_outputs) {
  const TileGrid grid = tile_grid(rows, outputs, tile_rows, tile_outputs);
  const std::string what = std::to_string(rows) + " x " + std::to_string(outputs) + " in tiles of " + std::to_string(tile_rows) + " x " + std::to_string(tile_outputs);
  std::set<std::pair<int, int>> places;
  int inside = 0;
  for (int tile = 0; tile < grid.tiles(); tile++) {
    const TileGrid::At at = grid.at(tile);
    places.insert({at.row, at.output});
    if (at.row >= 0 && at.row * tile_rows < rows && at.output >= 0 && at.output * tile_outputs < outputs) inside++;
  }
  expect(inside == grid.tiles() && static_cast<int>(places.size()) == grid.tiles(), "each tile lies inside and comes once: " + what);
  expect(int64_t{grid.down} * tile_rows >= rows && int64_t{grid.across} * tile_outputs >= outputs, "tiles cover " + what);
}

void check_hopper_tiles() {
  std::set<int> chosen;
  for (int multiprocessors : {1, 2, 114, 132}) {
    for (int rows : {1, 64, 65, 128, 129, 256, 300, 512, 1000, 2048, 8192}) {
      for (int width : {8, 96, 256, 768, 1280, 1664, 2048, 32768}) {
        for (int k : {64, 768, 1280, 2048, 8192}) {
          const int tile = hopper_tile(rows, width, k, multiprocessors);
          const int64_t cycles = hopper_cycles(kHopperTiles[tile], rows, width, k, multiprocessors);
          chosen.insert(tile);
          bool least = true;
          for (const HopperTile& other : kHopperTiles) least &= cycles <= hopper_cycles(other, rows, width, k, multiprocessors);
          expect(least, "no other tile is faster");
          expect(cycles <= hopper_cycles(kHopperTiles[tile], rows + 1, width, k, multiprocessors) && cycles <= hopper_cycles(kHopperTiles[tile], rows, width, k + 64, multiprocessors), "more work is not less time");
          check_tile_grid(rows, width, kHopperRows * kHopperTiles[tile].blocks, kHopperTiles[tile].outputs);
        }
      }
    }
  }
  expect(chosen.size() == kHopperTileCount, "every tile is of use");
  // n_embd / 8 outputs per tile fill 132 multiprocessors in one wave
  for (int width : {1280, 1664, 2048}) expect(kHopperTiles[hopper_tile(2048, width, width, 132)].outputs == width / 8, "an eighth of " + std::to_string(width));
}

}  // namespace

void test_index() {
  check_hopper_tiles();
  for (int i = 0; i < 200; i++) check_tile_grid(1 + static_cast<int>(random_bits() % 6000), 1 + static_cast<int>(random_bits() % 3000), 128 << random_bits() % 2, 32 + 16 * static_cast<int>(random_bits() % 15));

  check_swizzle<4>();
  check_swizzle<8>();
  check_swizzle<16>();

  for (int visible = 1; visible < 200000; visible += 1 + visible / 300) {
    const int splits = split_count(visible), per_split = keys_per_split(visible);
    expect(splits >= 1 && splits <= kMaxSplits, "at most kMaxSplits splits of " + std::to_string(visible));
    expect(int64_t{splits} * per_split >= visible && int64_t{splits - 1} * per_split < visible, "splits cover " + std::to_string(visible) + " keys, none is empty");
    expect(per_split % 32 == 0 && per_split >= kLeastSplit, "splits are whole steps of a block");
  }
  int most = 0;
  for (int visible = 1; visible < 20000; visible++) {
    most = std::max(most, split_count(visible));
    expect(most_splits(visible) == most, "the most splits of up to " + std::to_string(visible) + " keys");
  }
  for (int processors : {1, 3, 78, 132}) {
    for (int outputs : {1, 31, 768, 2304, 5120, 8192, 32768}) {
      for (int64_t chunks : {8, 96, 256, 1024}) {
        const GemvPlan plan = gemv_plan(outputs, chunks, processors);
        expect(plan.per_block * processors >= outputs && (plan.per_block - 1) * processors < outputs, "gemv: a block per processor");
        expect(kGemvWarps % plan.team == 0 && (plan.team == 1 || plan.team * kWarp <= chunks), "gemv: teams divide the warps and the row");
        expect(plan.outputs <= kGemvMostOutputs && kGemvRows * plan.outputs <= kWarp, "gemv: a lane for each sum");
      }
      for (int64_t stride : {64, 768, 3072, 8192}) {
        const int pieces = skinny_pieces(outputs, stride, processors);
        expect(pieces >= 1 && (pieces == 1 || pieces * divide_up(outputs, kSkinnyOutputs) <= processors), "skinny: blocks that share outputs fit on the device");
      }
      for (int rows = 1; rows < 300; rows++) expect(!is_skinny(rows, outputs, processors) || rows <= kSkinnyRows, "skinny: no more rows than its tile");
    }
  }
  for (int blocks : {1, 3, 40, 132}) {
    for (int outputs : {1, 64, 131, 768, 2304, 32768}) {
      for (int chunks : {8, 24, 96, 160, 1024}) {
        int next = 0;
        for (int block = 0; block < blocks; block++) {
          const StepShare s = step_share(outputs, chunks, block, blocks);
          expect(s.first == next && s.count >= 0 && s.parts == s.count * chunks, "step: blocks have consecutive outputs");
          expect(s.steps * kStepWarps * kWarp >= s.parts && (s.steps - 1) * kStepWarps * kWarp < s.parts, "step: warps have all of a block's weights");
          next += s.count;
        }
        expect(next == outputs, "step: every output is some block's");
      }
    }
    uint32_t arrived = 0;
    for (int block = 0; block < blocks; block++) arrived += grid_arrival(block, blocks);
    expect(arrived == kGridTurn, "all blocks together turn the grid's barrier");
    for (int heads : {1, 6, 16, 200}) {
      for (int splits = 1; splits <= kMaxSplits; splits++) {
        const int64_t runs = divide_up(splits, step_run(splits, heads, blocks));
        expect(heads * runs <= std::max(heads, blocks), "step: heads' runs fill the device once");
      }
    }
  }
  for (int position = 0; position < 300; position++) {
    for (int window : {-1, 0, 1, 127, 128, 1000}) {
      const int first = first_visible(position, window);
      expect(first == (window < 0 ? 0 : std::max(0, position - window)), "first visible key");
    }
  }
  for (int D = 1; D <= 130; D++) {
    const int padded = padded_head_dim(D);
    expect(D > 128 ? padded == 0 : padded >= D && (padded == 32 || padded / 2 < D), "padded head_dim of " + std::to_string(D));
  }
  for (int64_t v = 0; v < 1000; v++) expect(pad_to(v, 64) >= v && pad_to(v, 64) < v + 64 && pad_to(v, 64) % 64 == 0, "padding");

  std::vector<float> floats = {-INFINITY, -3e38f, -1, -1e-30f, -1e-40f, 0, 1e-40f, 1e-30f, 1, 1.0000001f, 3e38f, INFINITY};
  for (float v : noise<float>(200)) floats.push_back(v);
  const auto key = [](float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return ordered_bits(bits);
  };
  for (float a : floats) {
    for (float b : floats) expect((a < b) == (key(a) < key(b)), "keys sort as floats");
  }
  expect(key(-0.0f) == key(0.0f), "-0 = 0");

  // known answers of Random123
  const PhiloxWords zeros = philox(0, 0, 0, 0, 0, 0), ones = philox(~0u, ~0u, ~0u, ~0u, ~0u, ~0u);
  const PhiloxWords pi = philox(0xa4093822u, 0x299f31d0u, 0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u);
  const uint32_t answers[3][4] = {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}, {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}, {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}};
  expect(std::equal(zeros.word, zeros.word + 4, answers[0]), "philox of zeros");
  expect(std::equal(ones.word, ones.word + 4, answers[1]), "philox of ones");
  expect(std::equal(pi.word, pi.word + 4, answers[2]), "philox of pi");

  double worst = 0;
  std::uniform_real_distribution<double> angles(0, 1 << 24);
  for (int i = 0; i < 200000; i++) {
    const double angle = i < 1000 ? i * 1e-3 : i < 100000 ? angles(random_bits) / 1024 : angles(random_bits);
    const CosSin got = cos_sin(angle);
    worst = std::max({worst, std::fabs(got.cos - std::cos(angle)), std::fabs(got.sin - std::sin(angle))});
  }
  expect(worst < 1e-9, "cos and sin within 1e-9: " + std::to_string(worst));
}

}  // namespace cuda
}  // namespace nanochat
