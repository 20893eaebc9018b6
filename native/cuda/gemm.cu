// y = epilogue(x w^T), bf16 on tensor cores                     MODEL.md 1: every linear layer of more rows than is_skinny takes
// x (rows, k), w (outputs, k) -> y (rows, outputs)
// A block owns a tile of outputs x rows and streams slices of 64 k through a ring of shared memory (cp.async); a warp owns
// a part of the tile in registers (mma m16n8k16). Large tiles for prompts, small ones for batches of decoding rows.
// Bound by tensor cores at many rows, by reading w at few.
#include "cuda/device.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kSlice = kRowUnit;         // k per stage: 128 bytes of a row
constexpr int kChunks = kSlice / 8;      // of 16 bytes

// Tile of kRows x kOutputs, kWarpsDown x kWarpsAcross warps.
template <int kRows_, int kOutputs_, int kWarpsDown_, int kWarpsAcross_, int kStages_> struct Tile {
  static constexpr int kRows = kRows_, kOutputs = kOutputs_, kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_, kStages = kStages_;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarp;
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpOutputs = kOutputs / kWarpsAcross;
  static constexpr int kDown = kWarpRows / 16, kAcross = kWarpOutputs / 8;  // fragments of a warp
  static constexpr int kStageChunks = (kRows + kOutputs) * kChunks;
  static constexpr size_t kSharedBytes = static_cast<size_t>(kStages) * kStageChunks * 16;
  static_assert(kWarpRows % 16 == 0 && kWarpOutputs % 16 == 0, "whole fragments, two across at a time");
};
using LargeTile = Tile<128, 128, 2, 4, 3>;
using SmallTile = Tile<32, 64, 1, 4, 4>;

// Copies rows [from, from + count) of a matrix, 64 k of each, into a stage; rows beyond `end` become zeros.
template <int kThreads> NC_DEVICE void load_rows(Chunk<bf16>* stage, const bf16* matrix, int64_t stride, int64_t k, int from, int count, int end) {
  for (int i = thread(); i < count * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = from + row < end;
    copy_async(stage + swizzle<kChunks>(row, chunk), matrix + (valid ? from + row : 0) * stride + k + chunk * 8, valid);
  }
}

template <class Shape> NC_KERNEL(Shape::kThreads) gemm_kernel(Matmul<bf16> a) {
  auto* ring = static_cast<Chunk<bf16>*>(shared_memory());
  const int first_row = block_y() * Shape::kRows, first_output = block_x() * Shape::kOutputs;
  const int slices = static_cast<int>(a.stride / kSlice);
  const auto load = [&](int slice) {
    if (slice < slices) {
      Chunk<bf16>* stage = ring + slice % Shape::kStages * Shape::kStageChunks;
      load_rows<Shape::kThreads>(stage, a.x, a.stride, int64_t{slice} * kSlice, first_row, Shape::kRows, a.rows);
      load_rows<Shape::kThreads>(stage + Shape::kRows * kChunks, a.w, a.stride, int64_t{slice} * kSlice, first_output, Shape::kOutputs, a.outputs);
    }
    commit_copies();
  };

  const int row = warp() / Shape::kWarpsAcross * Shape::kWarpRows, output = warp() % Shape::kWarpsAcross * Shape::kWarpOutputs;
  float sum[Shape::kDown][Shape::kAcross][4] = {};
  for (int s = 0; s < Shape::kStages - 1; s++) load(s);
  for (int slice = 0; slice < slices; slice++) {
    wait_copies<Shape::kStages - 2>();
    sync_block();  // the slice is here, and everybody is done with the one before, whose stage is filled next
    load(slice + Shape::kStages - 1);
    const Chunk<bf16>* x = ring + slice % Shape::kStages * Shape::kStageChunks;
    const Chunk<bf16>* w = x + Shape::kRows * kChunks;
    NC_UNROLL
    for (int k = 0; k < kSlice / 16; k++) {
      uint32_t left[Shape::kDown][4];
      NC_UNROLL
      for (int i = 0; i < Shape::kDown; i++) load_matrices(left[i], x + swizzle<kChunks>(row + 16 * i + lane() % 16, 2 * k + lane() / 16));
      NC_UNROLL
      for (int j = 0; j < Shape::kAcross; j += 2) {
        uint32_t right[4];  // of 16 outputs: both halves of k of the first 8, then of the others
        load_matrices(right, w + swizzle<kChunks>(output + 8 * j + lane() % 8 + lane() / 16 * 8, 2 * k + lane() / 8 % 2));
        NC_UNROLL
        for (int i = 0; i < Shape::kDown; i++) {
          mma(sum[i][j], left[i], right[0], right[1]);
          mma(sum[i][j + 1], left[i], right[2], right[3]);
        }
      }
    }
  }
  wait_copies<0>();
  NC_UNROLL
  for (int i = 0; i < Shape::kDown; i++) {
    NC_UNROLL
    for (int j = 0; j < Shape::kAcross; j++) {
      NC_UNROLL
      for (int e = 0; e < 4; e++) {
        const int r = first_row + row + 16 * i + lane() / 4 + e / 2 * 8, o = first_output + output + 8 * j + lane() % 4 * 2 + e % 2;
        if (r < a.rows && o < a.outputs) finish(a, r, o, sum[i][j][e]);
      }
    }
  }
}

template <class Shape> void launch_gemm(Stream& stream, const Matmul<bf16>& a) {
  launch(stream, "gemm", gemm_kernel<Shape>, {divide_up(a.outputs, Shape::kOutputs), divide_up(a.rows, Shape::kRows)}, Shape::kThreads, Shape::kSharedBytes, a);
}

}  // namespace

void gemm_portable(Stream& stream, const Matmul<bf16>& a) {
  if (a.rows <= 64) launch_gemm<SmallTile>(stream, a);
  else launch_gemm<LargeTile>(stream, a);
}

void gemm(Stream& stream, const Matmul<bf16>& a) {
  const bool on_hopper = stream.is_hopper() && a.rows > kHopperLeastRows && gemm_sm90(stream, a, hopper_tile(a.rows, a.outputs, a.stride, stream.processors()));
  if (!on_hopper) gemm_portable(stream, a);
}

}  // namespace cuda
}  // namespace nanochat
