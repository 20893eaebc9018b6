// y = epilogue(x w^T), float32                     MODEL.md 1: every linear layer of five rows and more, for reference
// x (rows, k), w (outputs, k) -> y (rows, outputs)
// A block owns a tile of 64 rows x 64 outputs, a thread 4 x 4 of them; slices of 16 k go through shared memory.
// Bound by float32 arithmetic.
#include "cuda/device.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kTile = 64, kSlice = 16, kThreads = 256, kEach = 4;
constexpr int kPitch = kTile + 4;  // floats, so that columns fall into different banks

// Rows [from, from + 64) of a matrix, 16 k of each, transposed to (16, 64).
NC_DEVICE void load_slice(float* slice, const float* matrix, int64_t stride, int64_t k, int from, int end) {
  const int row = thread() / 4, part = thread() % 4 * 4;
  Chunk<float> values = {};
  if (from + row < end) values = *reinterpret_cast<const Chunk<float>*>(matrix + (from + row) * stride + k + part);
  NC_UNROLL
  for (int e = 0; e < 4; e++) slice[(part + e) * kPitch + row] = values.at[e];
}

NC_KERNEL(kThreads) gemm_float_kernel(Matmul<float> a) {
  float* x = static_cast<float*>(shared_memory());  // (16, 64)
  float* w = x + kSlice * kPitch;                   // (16, 64)
  const int first_row = block_y() * kTile, first_output = block_x() * kTile;
  const int row = thread() / 16 * kEach, output = thread() % 16 * kEach;
  float sum[kEach][kEach] = {};
  for (int64_t k = 0; k < a.stride; k += kSlice) {
    sync_block();
    load_slice(x, a.x, a.stride, k, first_row, a.rows);
    load_slice(w, a.w, a.stride, k, first_output, a.outputs);
    sync_block();
    NC_UNROLL
    for (int i = 0; i < kSlice; i++) {
      const auto left = *reinterpret_cast<const Chunk<float>*>(x + i * kPitch + row);
      const auto right = *reinterpret_cast<const Chunk<float>*>(w + i * kPitch + output);
      NC_UNROLL
      for (int r = 0; r < kEach; r++) {
        NC_UNROLL
        for (int o = 0; o < kEach; o++) sum[r][o] += left.at[r] * right.at[o];
      }
    }
  }
  NC_UNROLL
  for (int r = 0; r < kEach; r++) {
    NC_UNROLL
    for (int o = 0; o < kEach; o++) {
      if (first_row + row + r < a.rows && first_output + output + o < a.outputs) finish(a, first_row + row + r, first_output + output + o, sum[r][o]);
    }
  }
}

}  // namespace

void gemm_float(Stream& stream, const Matmul<float>& a) {
  launch(stream, "gemm_float", gemm_float_kernel, {divide_up(a.outputs, kTile), divide_up(a.rows, kTile)}, kThreads, 2 * kSlice * kPitch * sizeof(float), a);
}

}  // namespace cuda
}  // namespace nanochat
