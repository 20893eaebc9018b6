// x = resid * x + lambda * mixed;  n = norm(x)                  MODEL.md 1: residual mix, norms of the block, backout
// x, mixed (rows, C) float -> x in place, n (rows, C) T
// A block per row; each thread keeps its own elements, so that reading x again needs no barrier.
// Bound by latency at few rows, by memory at many. Not measured.
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 256;

template <class T> NC_DEVICE float mixed_element(const MixNorm<T>& a, const float* x, const float* mixed, int c) {
  return mixed ? a.resid * x[c] + a.mixed_lambda * mixed[c] : x[c];
}

template <class T> NC_KERNEL(kThreads) mix_norm_kernel(MixNorm<T> a) {
  float* scratch = static_cast<float*>(shared_memory());
  const int64_t row = a.picked ? a.picked[block_x()] : block_x();
  float* x = a.x + row * a.C;
  const float* mixed = a.mixed ? a.mixed + row * a.C : nullptr;
  float squares = 0;
  for (int c = thread(); c < a.C; c += threads()) {
    const float v = mixed_element(a, x, mixed, c);
    squares += v * v;
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(a.C) + a.eps);
  T* n = a.n + block_x() * a.n_stride;
  for (int c = thread(); c < a.C; c += threads()) {
    const float v = mixed_element(a, x, mixed, c);
    if (mixed && !a.picked) x[c] = v;
    n[c] = narrow<T>(v * scale);
  }
}

}  // namespace

template <class T> void mix_norm(Stream& stream, const MixNorm<T>& a, int64_t rows) {
  launch(stream, "mix_norm", mix_norm_kernel<T>, {rows}, kThreads, kThreads / kWarp * sizeof(float), a);
}

template void mix_norm<float>(Stream&, const MixNorm<float>&, int64_t);
template void mix_norm<bf16>(Stream&, const MixNorm<bf16>&, int64_t);

}  // namespace cuda
}  // namespace nanochat
