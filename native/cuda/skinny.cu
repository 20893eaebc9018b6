// y = epilogue(x w^T) for 5 to 64 rows, bf16 on tensor cores            MODEL.md 1: every linear layer of a decoding batch
// x (rows, k), w (outputs, k) -> y (rows, outputs)
// The weights are the tall side: a block has 32 outputs for all rows, its warps split k (mma m16n8k16, w as its a, x as its
// b). Each lane loads 16 bytes of a row and takes them as its share of two steps of k: a sum may take k in any order, as
// long as both sides do. They pass through a ring in shared memory in which every lane has places of its own. Where outputs
// are too few to fill the device, blocks split k too; the last one adds their sums up.
// Bound by reading w and, from the shared cache, x.
#include "cuda/device.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kStep = 32;                        // k of a warp at a time
constexpr int kTall = kSkinnyOutputs / 16;       // fragments of outputs
constexpr int kSlab = 32;                        // rows whose sums are in shared memory at a time
constexpr int kPitch = kSkinnyOutputs + 1;       // floats
constexpr size_t kScratchBytes = kWarps * kSlab * kPitch * sizeof(float);
constexpr size_t kMostRing = 96 << 10;           // bytes

struct Skinny {
  Matmul<bf16> a;
  int pieces;  // of k
};

// What a lane takes of a step: 16 bytes of each of its rows of w, then of x.
template <int kFlat> struct Step {
  static constexpr int kParts = 2 * kTall + kFlat;
  static constexpr size_t kBytes = kParts * 16 * kThreads;
  static constexpr int kSteps = kMostRing / kBytes < 4 ? kMostRing / kBytes : 4;  // in the ring
  static constexpr size_t kSharedBytes = kSteps * kBytes > kScratchBytes ? kSteps * kBytes : kScratchBytes;
};

struct alignas(16) Words {
  uint32_t at[4];
};

// Adds up the pieces of this block's outputs, in their order, when it is the last to arrive.
NC_DEVICE void finish_pieces(const Skinny& s, int first, int* is_last) {
  const Matmul<bf16>& a = s.a;
  publish();
  sync_block();
  if (thread() == 0) *is_last = add_global(&a.arrived[block_x()], 1) == static_cast<uint32_t>(s.pieces - 1);
  sync_block();
  if (!*is_last) return;
  publish();
  if (thread() == 0) a.arrived[block_x()] = 0;
  const int64_t piece = static_cast<int64_t>(a.rows) * kSkinnyOutputs;
  const float* partial = a.partial + static_cast<int64_t>(block_x()) * s.pieces * piece;
  for (int i = thread(); i < piece; i += kThreads) {
    float sum = 0;
    for (int p = 0; p < s.pieces; p++) sum += partial[p * piece + i];
    if (first + i % kSkinnyOutputs < a.outputs) finish(a, i / kSkinnyOutputs, first + i % kSkinnyOutputs, sum);
  }
}

template <int kFlat> NC_KERNEL(kThreads) skinny_kernel(Skinny s) {
  constexpr int kParts = Step<kFlat>::kParts, kSteps = Step<kFlat>::kSteps;
  const Matmul<bf16>& a = s.a;
  const int first = block_x() * kSkinnyOutputs, steps = static_cast<int>(a.stride) / kStep, stride = s.pieces * kWarps;
  const int g = lane() / 4, at = lane() % 4 * 8;
  const bf16* w[2 * kTall];
  NC_UNROLL
  for (int i = 0; i < 2 * kTall; i++) {
    const int output = first + 8 * i + g;
    w[i] = a.w + (output < a.outputs ? output : a.outputs - 1) * a.stride + at;
  }
  const bf16* x[kFlat];  // note: rows beyond the last are the last again, and never stored
  NC_UNROLL
  for (int j = 0; j < kFlat; j++) x[j] = a.x + (8 * j + g < a.rows ? 8 * j + g : a.rows - 1) * a.stride + at;

  auto* ring = static_cast<Words*>(shared_memory()) + thread();
  const auto ask_w = [&](int step, int slot) {
    NC_UNROLL
    for (int i = 0; i < 2 * kTall && step < steps; i++) copy_async(ring + (slot * kParts + i) * kThreads, w[i] + step * kStep, true);
  };
  const auto ask_x = [&](int step, int slot) {
    NC_UNROLL
    for (int j = 0; j < kFlat && step < steps; j++) copy_async(ring + (slot * kParts + 2 * kTall + j) * kThreads, x[j] + step * kStep, true);
    commit_copies();
  };
  int step = block_y() * kWarps + warp();
  for (int i = 0; i < kSteps; i++) ask_w(step + i * stride, i);  // weights were there before the kernel that makes x
  start_next();
  wait_for_previous();
  for (int i = 0; i < kSteps; i++) ask_x(step + i * stride, i);

  float sum[kTall][kFlat][4] = {};
  for (int slot = 0; step < steps; step += stride) {
    wait_copies<kSteps - 1>();
    const Words* part = ring + slot * kParts * kThreads;
    uint32_t low[kTall][4], high[kTall][4];
    NC_UNROLL
    for (int i = 0; i < 2 * kTall; i++) {
      const Words words = part[i * kThreads];
      low[i / 2][i % 2] = words.at[0];
      low[i / 2][i % 2 + 2] = words.at[1];
      high[i / 2][i % 2] = words.at[2];
      high[i / 2][i % 2 + 2] = words.at[3];
    }
    NC_UNROLL
    for (int j = 0; j < kFlat; j++) {
      const Words right = part[(2 * kTall + j) * kThreads];
      NC_UNROLL
      for (int i = 0; i < kTall; i++) {
        mma(sum[i][j], low[i], right.at[0], right.at[1]);
        mma(sum[i][j], high[i], right.at[2], right.at[3]);
      }
    }
    ask_w(step + kSteps * stride, slot);
    ask_x(step + kSteps * stride, slot);
    slot = slot + 1 < kSteps ? slot + 1 : 0;
  }
  wait_copies<0>();

  auto* scratch = static_cast<float*>(shared_memory());  // (warps, kSlab, kPitch)
  float* partial = a.partial + (static_cast<int64_t>(block_x()) * s.pieces + block_y()) * a.rows * kSkinnyOutputs;
  constexpr int kSlabFlat = kFlat < kSlab / 8 ? kFlat : kSlab / 8;
  NC_UNROLL
  for (int slab = 0; slab < kFlat; slab += kSlabFlat) {
    sync_block();
    NC_UNROLL
    for (int j = 0; j < kSlabFlat; j++) {
      NC_UNROLL
      for (int i = 0; i < kTall; i++) {
        NC_UNROLL
        for (int e = 0; e < 4; e++) scratch[(warp() * kSlab + 8 * j + 2 * (lane() % 4) + e % 2) * kPitch + 16 * i + g + e / 2 * 8] = sum[i][slab + j][e];
      }
    }
    sync_block();
    for (int i = thread(); i < 8 * kSlabFlat * kSkinnyOutputs; i += kThreads) {
      const int row = i / kSkinnyOutputs, output = i % kSkinnyOutputs;
      float total = 0;
      NC_UNROLL
      for (int part = 0; part < kWarps; part++) total += scratch[(part * kSlab + row) * kPitch + output];
      if (8 * slab + row >= a.rows) continue;
      if (s.pieces > 1) partial[(8 * slab + row) * kSkinnyOutputs + output] = total;
      else if (first + output < a.outputs) finish(a, 8 * slab + row, first + output, total);
    }
  }
  if (s.pieces > 1) finish_pieces(s, first, reinterpret_cast<int*>(scratch));
}

}  // namespace

void skinny(Stream& stream, const Matmul<bf16>& a) {
  const Skinny s{a, skinny_pieces(a.outputs, a.stride, stream.processors())};
  const Blocks blocks{divide_up(a.outputs, kSkinnyOutputs), s.pieces};
  const int flat = static_cast<int>(divide_up(a.rows, 8));
  const auto launch = [&](auto* kernel, size_t shared_bytes) { launch_overlapping(stream, "skinny", kernel, blocks, kThreads, shared_bytes, s); };
  if (flat <= 1) launch(skinny_kernel<1>, Step<1>::kSharedBytes);
  else if (flat <= 2) launch(skinny_kernel<2>, Step<2>::kSharedBytes);
  else if (flat <= 4) launch(skinny_kernel<4>, Step<4>::kSharedBytes);
  else launch(skinny_kernel<8>, Step<8>::kSharedBytes);
}

}  // namespace cuda
}  // namespace nanochat
