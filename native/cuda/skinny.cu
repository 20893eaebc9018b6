// y = epilogue(x w^T) for 5 to 64 rows, bf16 on tensor cores            MODEL.md 1: every linear layer of a decoding batch
// x (rows, k), w (outputs, k) -> y (rows, outputs)
// The weights are the tall side: a block has 32 outputs for all rows, its warps split k (mma m16n8k16, w as its a, x as its
// b). Each lane loads 16 bytes of a row and takes them as its share of two steps of k: a sum may take k in any order, as
// long as both sides do. Where outputs are too few to fill the device, blocks split k too; the last one adds their sums up.
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
constexpr size_t kSharedBytes = kWarps * kSlab * kPitch * sizeof(float);
constexpr int kPrefetchBytes = 64 << 10;         // of a block's weights

struct Skinny {
  Matmul<bf16> a;
  int pieces;  // of k
};

struct Words {
  uint32_t at[4];
};
NC_DEVICE Words load_words(const bf16* from) { return *reinterpret_cast<const Words*>(from); }

NC_DEVICE void prefetch_weights(const Skinny& s, int first) {
  constexpr int kLine = 64, kLines = kWarps * kStep / kLine;  // elements of a line, lines that the warps read at a time
  const int lines = kLines * static_cast<int>(divide_up(s.a.stride, int64_t{kWarps} * kStep * s.pieces));
  for (int i = thread(); i < kSkinnyOutputs * lines && i * 128 < kPrefetchBytes; i += kThreads) {
    const int output = first + i % kSkinnyOutputs, line = i / kSkinnyOutputs;
    const int k = ((line / kLines * s.pieces + block_y()) * kLines + line % kLines) * kLine;
    if (output < s.a.outputs && k < s.a.stride) prefetch(s.a.w + output * s.a.stride + k);
  }
}

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
  const Matmul<bf16>& a = s.a;
  const int first = block_x() * kSkinnyOutputs, steps = static_cast<int>(a.stride) / kStep, stride = s.pieces * kWarps;
  prefetch_weights(s, first);
  start_next();
  wait_for_previous();

  const int g = lane() / 4, at = lane() % 4 * 8;
  const bf16* w[kTall][2];
  NC_UNROLL
  for (int i = 0; i < 2 * kTall; i++) {
    const int output = first + 8 * i + g;
    w[i / 2][i % 2] = a.w + (output < a.outputs ? output : a.outputs - 1) * a.stride + at;
  }
  const bf16* x[kFlat];  // note: rows beyond the last are the last again, and never stored
  NC_UNROLL
  for (int j = 0; j < kFlat; j++) x[j] = a.x + (8 * j + g < a.rows ? 8 * j + g : a.rows - 1) * a.stride + at;

  float sum[kTall][kFlat][4] = {};
  int step = block_y() * kWarps + warp();
  Words next[kTall][2] = {};
  const auto load = [&](int from) {
    NC_UNROLL
    for (int i = 0; i < 2 * kTall; i++) if (from < steps) next[i / 2][i % 2] = load_words(w[i / 2][i % 2] + from * kStep);
  };
  load(step);
  for (; step < steps; step += stride) {
    uint32_t low[kTall][4], high[kTall][4];
    NC_UNROLL
    for (int i = 0; i < kTall; i++) {
      NC_UNROLL
      for (int e = 0; e < 4; e++) {
        low[i][e] = next[i][e % 2].at[e / 2];
        high[i][e] = next[i][e % 2].at[2 + e / 2];
      }
    }
    load(step + stride);
    NC_UNROLL
    for (int j = 0; j < kFlat; j++) {
      const Words right = load_words(x[j] + step * kStep);
      NC_UNROLL
      for (int i = 0; i < kTall; i++) {
        mma(sum[i][j], low[i], right.at[0], right.at[1]);
        mma(sum[i][j], high[i], right.at[2], right.at[3]);
      }
    }
  }

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
  const auto kernel = flat <= 1 ? skinny_kernel<1> : flat <= 2 ? skinny_kernel<2> : flat <= 4 ? skinny_kernel<4> : skinny_kernel<8>;
  launch_overlapping(stream, "skinny", kernel, blocks, kThreads, kSharedBytes, s);
}

}  // namespace cuda
}  // namespace nanochat
