// y = epilogue(x w^T) for 1 to 4 rows                                  MODEL.md 1: every linear layer while decoding
// x (rows, k), w (outputs, k) T -> y (rows, outputs)
// A warp owns two outputs for all rows and reads their weights once, 16 bytes per lane; x comes from shared memory, in
// pieces of 32 KB. Bound by reading w. Not measured.
#include "cuda/device.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kOutputs = 2;      // per warp
constexpr int kSharedBytes = 32 << 10;

template <class T, int kRows> NC_KERNEL(kThreads) gemv_kernel(Matmul<T> a) {
  using Part = Chunk<T>;
  constexpr int kPiece = kSharedBytes / (kRows * static_cast<int>(sizeof(T))) / 256 * 256;  // of x, whole steps of a warp
  T* x = static_cast<T*>(shared_memory());  // (rows, kPiece)
  const int first = (block_x() * (kThreads / kWarp) + warp()) * kOutputs;
  const T* w[kOutputs];
  float sum[kRows][kOutputs] = {};
  NC_UNROLL
  for (int o = 0; o < kOutputs; o++) w[o] = a.w + (first + o < a.outputs ? first + o : a.outputs - 1) * a.stride;

  const int stride = static_cast<int>(a.stride);
  for (int piece = 0; piece < stride; piece += kPiece) {
    const int length = stride - piece < kPiece ? stride - piece : kPiece;
    sync_block();
    for (int r = 0; r < kRows; r++) {
      for (int i = thread() * Part::kCount; i < length; i += kThreads * Part::kCount) {
        *reinterpret_cast<Part*>(x + r * kPiece + i) = *reinterpret_cast<const Part*>(a.x + r * a.stride + piece + i);
      }
    }
    sync_block();
    NC_UNROLL_BY_4
    for (int i = lane() * Part::kCount; i < length; i += kWarp * Part::kCount) {
      Part weights[kOutputs];
      NC_UNROLL
      for (int o = 0; o < kOutputs; o++) weights[o] = *reinterpret_cast<const Part*>(w[o] + piece + i);
      NC_UNROLL
      for (int r = 0; r < kRows; r++) {
        const Part values = *reinterpret_cast<const Part*>(x + r * kPiece + i);
        NC_UNROLL
        for (int e = 0; e < Part::kCount; e++) {
          const float v = widen(values.at[e]);
          NC_UNROLL
          for (int o = 0; o < kOutputs; o++) sum[r][o] += v * widen(weights[o].at[e]);
        }
      }
    }
  }
  NC_UNROLL
  for (int r = 0; r < kRows; r++) {
    NC_UNROLL
    for (int o = 0; o < kOutputs; o++) {
      const float v = warp_sum(sum[r][o]);
      if (lane() == 0 && first + o < a.outputs) finish(a, r, first + o, v);
    }
  }
}

template <class T, int kRows> void launch_gemv(Stream& stream, const Matmul<T>& a) {
  const int64_t per_block = kThreads / kWarp * kOutputs;
  launch(stream, "gemv", gemv_kernel<T, kRows>, {divide_up(a.outputs, per_block)}, kThreads, kSharedBytes, a);
}

}  // namespace

template <class T> void gemv(Stream& stream, const Matmul<T>& a) {
  switch (a.rows) {
    case 1: return launch_gemv<T, 1>(stream, a);
    case 2: return launch_gemv<T, 2>(stream, a);
    case 3: return launch_gemv<T, 3>(stream, a);
    case 4: return launch_gemv<T, 4>(stream, a);
  }
}

template <> void matmul<float>(Stream& stream, const Matmul<float>& a) {
  if (a.rows <= kGemvRows) gemv(stream, a);
  else gemm_float(stream, a);
}

template <> void matmul<bf16>(Stream& stream, const Matmul<bf16>& a) {
  if (a.rows <= kGemvRows) gemv(stream, a);
  else gemm(stream, a);
}

template void gemv<float>(Stream&, const Matmul<float>&);
template void gemv<bf16>(Stream&, const Matmul<bf16>&);

}  // namespace cuda
}  // namespace nanochat
