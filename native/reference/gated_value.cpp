// v += m * sigmoid(ve_gate . n[0:g]) * value_embeds[id]      MODEL.md 1, generations G4 and later
// v (D) float, row (D) bf16 or float, gate_weight (g), n (g) T
#include <cmath>

#include "reference/reference.h"

namespace nanochat {
namespace reference {

template <class T>
void gated_value(float* v, const void* row, bool row_is_bf16, int D, const float* gate_weight, const T* n, int g, float m) {
  double dot = 0;
  for (int c = 0; c < g; c++) dot += static_cast<double>(gate_weight[c]) * to_float(n[c]);
  const double gate = m / (1 + std::exp(-dot));
  for (int d = 0; d < D; d++) v[d] = static_cast<float>(v[d] + gate * element(row, row_is_bf16, d));
}

template void gated_value<float>(float*, const void*, bool, int, const float*, const float*, int, float);
template void gated_value<bf16>(float*, const void*, bool, int, const float*, const bf16*, int, float);

}  // namespace reference
}  // namespace nanochat
