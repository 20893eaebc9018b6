// y = epilogue(x w^T)                            MODEL.md 1: c_q, c_k, c_v, c_proj, mlp.c_fc, mlp.c_proj, lm_head
// x (rows, K) T, w one packed panel (K / step, 64, step) T -> y (rows, outputs) float, or T after relu2
#include <cmath>

#include "reference/reference.h"

namespace nanochat {
namespace reference {

template <class T> void matmul_panel(const MatmulPanel<T>& a) {
  constexpr int step = kStep<T>;
  for (int r = 0; r < a.rows; r++) {
    for (int n = 0; n < a.outputs; n++) {
      double v = 0;
      for (int k = 0; k < a.k; k++) {
        v += static_cast<double>(to_float(a.x[r * a.x_stride + k])) * to_float(a.w[(k / step * kPanel + n) * step + k % step]);
      }
      const int64_t at = r * a.y_stride + n;
      float* y = static_cast<float*>(a.y);
      switch (a.epilogue) {
        case Epilogue::store: y[at] = static_cast<float>(v); break;
        case Epilogue::add: y[at] = static_cast<float>(y[at] + v); break;
        case Epilogue::softcap: y[at] = static_cast<float>(a.cap * std::tanh(v / a.cap)); break;
        case Epilogue::relu2: static_cast<T*>(a.y)[at] = from_float<T>(static_cast<float>(v < 0 ? 0 : v * v)); break;
      }
    }
  }
}

template void matmul_panel<float>(const MatmulPanel<float>&);
template void matmul_panel<bf16>(const MatmulPanel<bf16>&);

}  // namespace reference
}  // namespace nanochat
