// y = epilogue(x w^T), bf16 on Hopper's tensor cores            MODEL.md 1: every linear layer of a prompt
// x (rows, k), w (outputs, k) -> y (rows, outputs)
// A block stays on its multiprocessor and takes tile after tile of 128 rows. One thread has slices of 64 k copied into a
// ring of shared memory; two groups of four warps multiply 64 rows each and store their outputs. Two blocks of a cluster
// take neighbouring rows: each fetches half of w's slice for both.
// Bound by tensor cores, and by shared memory for tiles of fewer than 256 outputs: at 128 bytes per cycle a slice takes 256 +
// 3 * outputs cycles to be written and read, its products 4 * outputs. H100, 2048 rows: 585 to 654 TFLOP/s for d20's layers (c_proj: 441), 671 to 730 for
// d32's (c_proj: 532), of 790 at most; 3.2 to 5.3 times gemm.cu. Taking turns (64 rows per group, one stores while the other
// multiplies) was slower (d32's c_qkv 594): shared memory would have to take 80 bytes per cycle beside the 80 that are read.
#include <algorithm>

#include "cuda/hopper.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kSlice = kRowUnit;              // k per stage
constexpr int kSliceBytes = kSlice * 2;       // of a row
constexpr int kGroup = 4 * kWarp;             // threads that multiply together
constexpr int kGroupRows = 64;
constexpr int kGroups = 2;
constexpr int kTileRows = kHopperRows;
static_assert(kTileRows == kGroups * kGroupRows, "every row has a group");
constexpr int kThreads = (1 + kGroups) * kGroup;
constexpr size_t kMostShared = 227 << 10;     // bytes that a block can have

template <int kOutputs_, int kBlocks_> struct Tile {
  static constexpr int kOutputs = kOutputs_, kBlocks = kBlocks_;
  static constexpr int kShare = kOutputs / kBlocks;  // rows of w that each block of the cluster fetches
  static constexpr int kStageBytes = (kTileRows + kOutputs) * kSliceBytes;
  static constexpr size_t kExtraBytes = 1024 + 256;  // alignment, barriers
  static constexpr int kRoom = static_cast<int>((kMostShared - kExtraBytes) / kStageBytes);
  static constexpr int kStages = kRoom < 8 ? kRoom : 8;
  static constexpr size_t kSharedBytes = static_cast<size_t>(kStages) * kStageBytes + kExtraBytes;
  static_assert(kShare % 8 == 0 && kShare <= 256, "a box of whole swizzled groups of rows");
};

struct Product {
  Matmul<bf16> a;
  TileGrid grid;    // of clusters
  CUtensorMap x, w;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Place in the ring: the stage, and the parity of its use.
template <int kStages> struct Place {
  int stage = 0;
  uint32_t parity = 0;
  NC_DEVICE void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

NC_DEVICE float relu2(float v) {
  const float positive = v > 0 ? v : 0;
  return positive * positive;
}

// Lanes 4 i.. hold word l of four chunks each; lane l leaves with all of chunk l.
NC_DEVICE uint4 gather_chunk(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
  const bool odd = lane() & 1, high = lane() & 2;
  const uint32_t even_pair = shuffle_xor(odd ? w0 : w1, 1), odd_pair = shuffle_xor(odd ? w2 : w3, 1);
  if (odd) w0 = even_pair, w2 = odd_pair;
  else w1 = even_pair, w3 = odd_pair;
  const uint32_t first = shuffle_xor(high ? w0 : w2, 2), second = shuffle_xor(high ? w1 : w3, 2);
  return high ? uint4{first, second, w2, w3} : uint4{w0, w1, first, second};
}

template <class Shape> NC_DEVICE void finish_relu2(const Matmul<bf16>& a, const float (&sum)[Shape::kOutputs / 2], int row, int output) {
  NC_UNROLL
  for (int half = 0; half < 2; half++) {
    const int r = row + 8 * half, left = r < a.rows ? a.outputs - output : 0;
    bf16* y = static_cast<bf16*>(a.y) + r * a.y_stride + output;
    const auto word = [&](int j) { return pack_bf16(relu2(sum[4 * j + 2 * half]), relu2(sum[4 * j + 2 * half + 1])); };
    NC_UNROLL
    for (int j = 0; j + 4 <= Shape::kOutputs / 8; j += 4) {
      const uint4 chunk = gather_chunk(word(j), word(j + 1), word(j + 2), word(j + 3));
      if (8 * (j + lane() % 4) < left) *reinterpret_cast<uint4*>(y + 8 * (j + lane() % 4)) = chunk;
    }
    NC_UNROLL
    for (int j = Shape::kOutputs / 32 * 4; j < Shape::kOutputs / 8; j++) {
      if (8 * j < left) *reinterpret_cast<uint32_t*>(y + 8 * j + lane() % 4 * 2) = word(j);
    }
  }
}

// note: y is added to where it lies; loading it took nearly half of the time of some products. Each output is added to once, so the
// sum is the same every time.
NC_DEVICE void add_to(float4* y, const float4& v) {
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(y), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

template <Epilogue kEpilogue, class Shape> NC_DEVICE void finish_floats(const Matmul<bf16>& a, const float (&sum)[Shape::kOutputs / 2], int row, int output) {
  const bool odd = lane() & 1;
  const int mine = 8 * (lane() & 1) + 2 * (lane() & 2);  // four outputs of sixteen: the even lane's of eight, or the odd one's of the next
  NC_UNROLL
  for (int half = 0; half < 2; half++) {
    const int r = row + 8 * half, left = r < a.rows ? a.outputs - output - mine : 0;
    float4* y = reinterpret_cast<float4*>(static_cast<float*>(a.y) + r * a.y_stride + output + mine);
    NC_UNROLL
    for (int j = 0; j < Shape::kOutputs / 16; j++) {
      float here[2], there[2];
      NC_UNROLL
      for (int e = 0; e < 2; e++) {
        const float first = sum[8 * j + 2 * half + e], second = sum[8 * j + 4 + 2 * half + e];
        here[e] = odd ? second : first;
        there[e] = shuffle_xor(odd ? first : second, 1);
      }
      float4 v = odd ? float4{there[0], there[1], here[0], here[1]} : float4{here[0], here[1], there[0], there[1]};
      if (kEpilogue == Epilogue::softcap) v = {a.cap * tanhf(v.x / a.cap), a.cap * tanhf(v.y / a.cap), a.cap * tanhf(v.z / a.cap), a.cap * tanhf(v.w / a.cap)};
      if (16 * j >= left) continue;
      if (kEpilogue == Epilogue::add) add_to(y + 4 * j, v);
      else y[4 * j] = v;
    }
  }
}

template <class Shape> NC_DEVICE void fetch(const Product& p, unsigned char* ring, Barrier* full, Barrier* free) {
  const int rank = cluster_rank(), slices = static_cast<int>(p.a.stride / kSlice);
  const auto fetch_w = [&](int stage, int slice, int output) {
    unsigned char* w = ring + stage * Shape::kStageBytes + (kTileRows + rank * Shape::kShare) * kSliceBytes;
    expect_bytes(&full[stage], Shape::kStageBytes);
    if constexpr (Shape::kBlocks == 1) load_box(w, &p.w, slice * kSlice, output, &full[stage]);
    else load_box_for((1 << Shape::kBlocks) - 1, w, &p.w, slice * kSlice, output + rank * Shape::kShare, &full[stage]);
  };
  // Weights were there before the kernel that makes x.
  int ahead = slices < Shape::kStages ? slices : Shape::kStages;
  for (int s = 0; s < ahead; s++) fetch_w(s, s, p.grid.at(block_x() / Shape::kBlocks).output * Shape::kOutputs);
  wait_for_previous();
  Place<Shape::kStages> at;
  for (int tile = block_x() / Shape::kBlocks; tile < p.grid.tiles(); tile += blocks() / Shape::kBlocks) {
    const TileGrid::At place = p.grid.at(tile);
    const int row = (place.row * Shape::kBlocks + rank) * kTileRows;
    for (int slice = 0; slice < slices; slice++) {
      if (ahead > 0) {
        ahead--;
      } else {
        wait_barrier(&free[at.stage], at.parity ^ 1);
        fetch_w(at.stage, slice, place.output * Shape::kOutputs);
      }
      load_box(ring + at.stage * Shape::kStageBytes, &p.x, slice * kSlice, row, &full[at.stage]);
      at.advance();
    }
  }
}

template <class Shape> NC_DEVICE void multiply_and_finish(const Product& p, unsigned char* ring, Barrier* full, Barrier* free) {
  const int rank = cluster_rank(), group = thread() / kGroup - 1, slices = static_cast<int>(p.a.stride / kSlice);
  const uint64_t x = describe_operand(ring + group * kGroupRows * kSliceBytes), w = describe_operand(ring + kTileRows * kSliceBytes);
  // One lane of this group tells each block of the cluster that a stage is free.
  const bool tells = lane() == 0 && warp() % 4 < Shape::kBlocks;
  Place<Shape::kStages> at;
  for (int tile = block_x() / Shape::kBlocks; tile < p.grid.tiles(); tile += blocks() / Shape::kBlocks) {
    float sum[Shape::kOutputs / 2];
    int previous = 0;
    for (int slice = 0; slice < slices; slice++) {
      wait_barrier(&full[at.stage], at.parity);
      begin_products();
      const uint64_t offset = static_cast<uint64_t>(at.stage * (Shape::kStageBytes / 16));
      NC_UNROLL
      for (int k = 0; k < kSlice / 16; k++) multiply<Shape::kOutputs>(sum, x + offset + 2 * k, w + offset + 2 * k, slice + k);
      commit_products();
      wait_products<1>();
      if (slice > 0 && tells) arrive_at(&free[previous], warp() % 4);
      previous = at.stage;
      at.advance();
    }
    wait_products<0>();
    if (tells) arrive_at(&free[previous], warp() % 4);
    const TileGrid::At place = p.grid.at(tile);
    const int row = (place.row * Shape::kBlocks + rank) * kTileRows + group * kGroupRows + warp() % 4 * 16 + lane() / 4, output = place.output * Shape::kOutputs;
    switch (p.a.epilogue) {
      case Epilogue::store: finish_floats<Epilogue::store, Shape>(p.a, sum, row, output); break;
      case Epilogue::add: finish_floats<Epilogue::add, Shape>(p.a, sum, row, output); break;
      case Epilogue::relu2: finish_relu2<Shape>(p.a, sum, row, output); break;
      case Epilogue::softcap: finish_floats<Epilogue::softcap, Shape>(p.a, sum, row, output); break;
    }
  }
}

#endif

template <class Shape> __global__ void __launch_bounds__(kThreads, 1) NC_CLUSTER(Shape::kBlocks) gemm_hopper_kernel(const __grid_constant__ Product p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  auto* ring = static_cast<unsigned char*>(shared_memory());
  ring += (1024 - shared_address(ring) % 1024) % 1024;
  auto* full = reinterpret_cast<Barrier*>(ring + Shape::kStages * Shape::kStageBytes);
  Barrier* free = full + Shape::kStages;
  if (thread() == 0) {
    prefetch_map(&p.x);
    prefetch_map(&p.w);
    for (int s = 0; s < Shape::kStages; s++) {
      init_barrier(&full[s], 1);
      init_barrier(&free[s], kGroups * Shape::kBlocks);
    }
    publish_barriers();
  }
  sync_cluster();
  start_next();
  if (thread() < kGroup) {
    give_registers<40>();
    if (thread() == 0) fetch<Shape>(p, ring, full, free);
  } else {
    take_registers<232>();
    multiply_and_finish<Shape>(p, ring, full, free);
  }
  sync_cluster();  // the other block may still write to this one's memory and barriers
#endif
}

template <int kOutputs, int kBlocks> bool launch_gemm(Stream& stream, const Matmul<bf16>& a) {
  using Shape = Tile<kOutputs, kBlocks>;
  Product p;
  p.a = a;
  p.grid = tile_grid(a.rows, a.outputs, kTileRows * kBlocks, kOutputs);
  const int unit = a.epilogue == Epilogue::relu2 ? 8 : 4;  // outputs that are stored at once, 16 bytes
  if (a.outputs % unit != 0 || a.y_stride % unit != 0 || reinterpret_cast<uintptr_t>(a.y) % 16 != 0) return false;
  if (!make_tensor_map(&p.x, a.x, a.rows, a.stride, kTileRows) || !make_tensor_map(&p.w, a.w, a.outputs, a.stride, Shape::kShare)) return false;
  const int64_t blocks = std::min<int64_t>(p.grid.tiles(), stream.processors() / kBlocks) * kBlocks;
  launch_overlapping(stream, "gemm_sm90", gemm_hopper_kernel<Shape>, {blocks}, kThreads, Shape::kSharedBytes, p);
  return true;
}

template <int kTile = 0> bool launch_tile(int tile, Stream& stream, const Matmul<bf16>& a) {
  if constexpr (kTile == kHopperTileCount) return false;
  else return tile == kTile ? launch_gemm<kHopperTiles[kTile].outputs, kHopperTiles[kTile].blocks>(stream, a) : launch_tile<kTile + 1>(tile, stream, a);
}

}  // namespace

bool gemm_sm90(Stream& stream, const Matmul<bf16>& a, int tile) { return launch_tile(tile, stream, a); }

}  // namespace cuda
}  // namespace nanochat
