// What happens to a finished output of a product.
#pragma once
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

template <class T> NC_DEVICE void finish(const Matmul<T>& a, int row, int output, float v) {
  const int64_t at = row * a.y_stride + output;
  float* y = static_cast<float*>(a.y);
  switch (a.epilogue) {
    case Epilogue::store: y[at] = v; break;
    case Epilogue::add: y[at] += v; break;
    case Epilogue::softcap: y[at] = a.cap * tanhf(v / a.cap); break;
    case Epilogue::relu2: {
      const float positive = v > 0 ? v : 0;
      static_cast<T*>(a.y)[at] = narrow<T>(positive * positive);
    }
  }
}

}  // namespace cuda
}  // namespace nanochat
