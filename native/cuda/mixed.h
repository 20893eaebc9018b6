// What a norm is taken of, and the norm by a block that needs it in shared memory.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

template <class T> NC_DEVICE float mixed_element(const MixNorm<T>& a, int64_t row, int c) {
  const float x = a.x[row * a.C + c];
  return a.mixed ? a.resid * x + a.mixed_lambda * a.mixed[row * a.C + c] : x;
}

constexpr int kNormElements = 4;  // of a row, per thread

// x (kRows, stride) = narrow(norm), zeros beyond C, by every block for itself; the first one stores what is wanted of it.
template <class T, int kRows, int kThreads> NC_DEVICE void take_norm(const MixNorm<T>& norm, int64_t stride, T* x, float* scratch) {
  constexpr int kWarps = kThreads / kWarp;
  int64_t row[kRows];
  float v[kRows][kNormElements];
  NC_UNROLL
  for (int r = 0; r < kRows; r++) {
    row[r] = norm.picked ? norm.picked[r] : r;
    NC_UNROLL
    for (int i = 0; i < kNormElements; i++) {
      const int c = thread() + i * kThreads;
      v[r][i] = c < norm.C ? mixed_element(norm, row[r], c) : 0;
    }
  }
  NC_UNROLL
  for (int r = 0; r < kRows; r++) {
    float squares = 0;
    NC_UNROLL
    for (int i = 0; i < kNormElements; i++) squares += v[r][i] * v[r][i];
    squares = warp_sum(squares);
    if (lane() == 0) scratch[r * kWarps + warp()] = squares;
  }
  sync_block();
  const bool stores = block_x() == 0;
  NC_UNROLL
  for (int r = 0; r < kRows; r++) {
    float sum = 0;
    for (int w = 0; w < kWarps; w++) sum += scratch[r * kWarps + w];
    const float scale = rsqrtf(sum / static_cast<float>(norm.C) + norm.eps);
    NC_UNROLL
    for (int i = 0; i < kNormElements; i++) {
      const int c = thread() + i * kThreads;
      if (c >= stride) continue;
      const T n = narrow<T>(v[r][i] * scale);
      x[r * stride + c] = n;
      if (!stores || c >= norm.C) continue;
      norm.n[r * norm.n_stride + c] = n;
      if (norm.x_out) norm.x_out[row[r] * norm.C + c] = v[r][i];
    }
  }
}

}  // namespace cuda
}  // namespace nanochat
