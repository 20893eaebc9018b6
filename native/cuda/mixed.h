// One element of what a norm is taken of.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

template <class T> NC_DEVICE float mixed_element(const MixNorm<T>& a, int64_t row, int c) {
  const float x = a.x[row * a.C + c];
  return a.mixed ? a.resid * x + a.mixed_lambda * a.mixed[row * a.C + c] : x;
}

}  // namespace cuda
}  // namespace nanochat
