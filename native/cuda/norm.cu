// x_out = resid * x + lambda * mixed;  n = norm(x_out)          MODEL.md 1: residual mix, norms of the block, backout
// x, mixed (rows, C) float -> x_out (rows, C), n (rows, C) T
// A block per row; each thread keeps its own elements, so that reading x again needs no barrier.
// Bound by latency at few rows, by memory at many.
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/mixed.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 256;

template <class T> NC_KERNEL(kThreads) mix_norm_kernel(MixNorm<T> a) {
  float* scratch = static_cast<float*>(shared_memory());
  start_next();
  wait_for_previous();
  const int64_t row = a.picked ? a.picked[block_x()] : block_x();
  float squares = 0;
  for (int c = thread(); c < a.C; c += threads()) {
    const float v = mixed_element(a, row, c);
    squares += v * v;
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(a.C) + a.eps);
  T* n = a.n + block_x() * a.n_stride;
  for (int c = thread(); c < a.C; c += threads()) {
    const float v = mixed_element(a, row, c);
    if (a.x_out) a.x_out[row * a.C + c] = v;
    n[c] = narrow<T>(v * scale);
  }
}

}  // namespace

template <class T> void mix_norm(Stream& stream, const MixNorm<T>& a, int64_t rows) {
  launch_overlapping(stream, "mix_norm", mix_norm_kernel<T>, {rows}, kThreads, kThreads / kWarp * sizeof(float), a);
}

template void mix_norm<float>(Stream&, const MixNorm<float>&, int64_t);
template void mix_norm<bf16>(Stream&, const MixNorm<bf16>&, int64_t);

}  // namespace cuda
}  // namespace nanochat
