// y = epilogue(x w^T), bf16 on Hopper's tensor cores            MODEL.md 1: every linear layer of a prompt
// x (rows, k), w (outputs, k) -> y (rows, outputs)
// A block stays on its multiprocessor and takes tile after tile of 128 rows. One thread has slices of 64 k copied into a
// ring of shared memory; two groups of four warps multiply 64 rows each and finish their own outputs. Two blocks of a
// cluster take neighbouring rows: each fetches half of w's slice for both.
// Bound by tensor cores. Not measured.
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
constexpr int kTileRows = kGroups * kGroupRows;
constexpr int kThreads = (1 + kGroups) * kGroup;
constexpr size_t kMostShared = 227 << 10;     // bytes that a block can have

template <int kOutputs_, int kBlocks_, int kVariant_ = 0> struct Tile {
  static constexpr int kVariant = kVariant_;
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

template <Epilogue kEpilogue, class Shape> NC_DEVICE void finish_floats(const Matmul<bf16>& a, const float (&sum)[Shape::kOutputs / 2], int row, int output) {
  constexpr int kBatch = 8;  // loads in flight
  if (Shape::kVariant == 3 && a.cap != 0.1234f) return;
  if constexpr (Shape::kVariant == 2 && (kEpilogue == Epilogue::add || kEpilogue == Epilogue::store)) {
    const bool odd = lane() & 1;
    NC_UNROLL
    for (int half = 0; half < 2; half++) {
      const int r = row + 8 * half, left = r < a.rows ? a.outputs - output : 0, first = 8 * (lane() & 1) + (lane() & 2) * 2;
      float4* y = reinterpret_cast<float4*>(static_cast<float*>(a.y) + r * a.y_stride + output + first);
      NC_UNROLL
      for (int from = 0; from < Shape::kOutputs / 16; from += kBatch) {
        float4 v[kBatch];
        NC_UNROLL
        for (int i = 0; i < kBatch; i++) {
          const int j = from + i;
          v[i] = {0, 0, 0, 0};
          if (j < Shape::kOutputs / 16 && kEpilogue == Epilogue::add && 16 * j + first < left) v[i] = y[4 * j];
        }
        NC_UNROLL
        for (int i = 0; i < kBatch; i++) {
          const int j = from + i;
          if (j >= Shape::kOutputs / 16) continue;
          const float a0 = sum[8 * j + 2 * half], a1 = sum[8 * j + 2 * half + 1], b0 = sum[8 * j + 4 + 2 * half], b1 = sum[8 * j + 4 + 2 * half + 1];
          const float g0 = shuffle_xor(odd ? a0 : b0, 1), g1 = shuffle_xor(odd ? a1 : b1, 1);
          const float4 q = odd ? float4{g0, g1, b0, b1} : float4{a0, a1, g0, g1};
          if (16 * j + first < left) y[4 * j] = {v[i].x + q.x, v[i].y + q.y, v[i].z + q.z, v[i].w + q.w};
        }
      }
    }
    return;
  }
  NC_UNROLL
  for (int half = 0; half < 2; half++) {
    const int r = row + 8 * half, left = r < a.rows ? a.outputs - output : 0;
    float2* y = reinterpret_cast<float2*>(static_cast<float*>(a.y) + r * a.y_stride + output + lane() % 4 * 2);
    NC_UNROLL
    for (int from = 0; from < Shape::kOutputs / 8; from += kBatch) {
      float2 v[kBatch];
      NC_UNROLL
      for (int i = 0; i < kBatch; i++) {
        const int j = from + i;
        v[i] = {0, 0};
        if (j < Shape::kOutputs / 8 && kEpilogue == Epilogue::add && Shape::kVariant != 1 && 8 * j + lane() % 4 * 2 < left) v[i] = y[4 * j];
      }
      NC_UNROLL
      for (int i = 0; i < kBatch; i++) {
        const int j = from + i;
        if (j >= Shape::kOutputs / 8 || 8 * j + lane() % 4 * 2 >= left) continue;
        const float v0 = sum[4 * j + 2 * half], v1 = sum[4 * j + 2 * half + 1];
        if (kEpilogue == Epilogue::softcap) y[4 * j] = {a.cap * tanhf(v0 / a.cap), a.cap * tanhf(v1 / a.cap)};
        else if (kEpilogue == Epilogue::add && Shape::kVariant == 1) asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(y + 4 * j), "f"(v0), "f"(v1) : "memory");
        else y[4 * j] = {v[i].x + v0, v[i].y + v1};
      }
    }
  }
}

template <class Shape> NC_DEVICE void fetch(const Product& p, unsigned char* ring, Barrier* full, Barrier* free) {
  const int rank = cluster_rank();
  Place<Shape::kStages> at;
  for (int tile = block_x() / Shape::kBlocks; tile < p.grid.tiles(); tile += blocks() / Shape::kBlocks) {
    const TileGrid::At place = p.grid.at(tile);
    const int row = (place.row * Shape::kBlocks + rank) * kTileRows, output = place.output * Shape::kOutputs;
    for (int k = 0; k < p.a.stride; k += kSlice) {
      wait_barrier(&free[at.stage], at.parity ^ 1);
      expect_bytes(&full[at.stage], Shape::kStageBytes);
      unsigned char* x = ring + at.stage * Shape::kStageBytes;
      unsigned char* w = x + (kTileRows + rank * Shape::kShare) * kSliceBytes;
      load_box(x, &p.x, k, row, &full[at.stage]);
      if constexpr (Shape::kBlocks == 1) load_box(w, &p.w, k, output, &full[at.stage]);
      else load_box_for((1 << Shape::kBlocks) - 1, w, &p.w, k, output + rank * Shape::kShare, &full[at.stage]);
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

template <class Shape> __global__ void __launch_bounds__(kThreads, 1) NC_CLUSTER(Shape::kBlocks) gemm_sm90_kernel(const __grid_constant__ Product p) {
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
  wait_for_previous_kernel();
  let_next_kernel_start();
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

template <int kOutputs, int kBlocks, int kVariant = 0> bool launch_gemm(Stream& stream, const Matmul<bf16>& a) {
  using Shape = Tile<kOutputs, kBlocks, kVariant>;
  Product p;
  p.a = a;
  p.grid = tile_grid(a.rows, a.outputs, kTileRows * kBlocks, kOutputs);
  const int unit = a.epilogue == Epilogue::relu2 ? 8 : 2;  // outputs that are stored at once
  if (a.outputs % unit != 0 || a.y_stride % unit != 0 || reinterpret_cast<uintptr_t>(a.y) % (a.epilogue == Epilogue::relu2 ? 16 : 8) != 0) return false;
  if (!make_tensor_map(&p.x, a.x, a.rows, a.stride, kTileRows) || !make_tensor_map(&p.w, a.w, a.outputs, a.stride, Shape::kShare)) return false;
  const int64_t blocks = std::min<int64_t>(p.grid.tiles(), stream.multiprocessors() / kBlocks) * kBlocks;
  launch(stream, "gemm_sm90", gemm_sm90_kernel<Shape>, {blocks}, kThreads, Shape::kSharedBytes, p);
  return true;
}

}  // namespace

bool gemm_sm90(Stream& stream, const Matmul<bf16>& a) {
  if (!stream.is_hopper()) return false;
  return launch_gemm<128, 1>(stream, a);
}

}  // namespace cuda
}  // namespace nanochat
