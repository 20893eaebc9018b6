// norm(x) = x * rsqrt(mean(x^2) + eps), and what else runs along one row       MODEL.md 1
#include <cmath>
#include <vector>

#include "reference/reference.h"

namespace nanochat {
namespace reference {

double inverse_rms(const double* x, int count, float eps) {
  double sum = 0;
  for (int i = 0; i < count; i++) sum += x[i] * x[i];
  return 1 / std::sqrt(sum / count + eps);
}

// x (C) -> out (C)
template <class T> void rms_norm(const float* x, int C, float eps, T* out) {
  const std::vector<double> wide(x, x + C);
  const double scale = inverse_rms(wide.data(), C, eps);
  for (int c = 0; c < C; c++) out[c] = from_float<T>(static_cast<float>(x[c] * scale));
}

// row (C) -> x (C): norm(wte[id])
void embed(const void* row, bool row_is_bf16, int C, float eps, float* x) {
  std::vector<double> wide;
  for (int c = 0; c < C; c++) wide.push_back(element(row, row_is_bf16, c));
  const double scale = inverse_rms(wide.data(), C, eps);
  for (int c = 0; c < C; c++) x[c] = static_cast<float>(wide[static_cast<size_t>(c)] * scale);
}

// x = resid * x + x0_lambda * x0
void mix(float* x, const float* x0, int C, float resid, float x0_lambda) {
  for (int c = 0; c < C; c++) x[c] = static_cast<float>(static_cast<double>(resid) * x[c] + static_cast<double>(x0_lambda) * x0[c]);
}

template <class T> void convert(const float* x, int64_t count, T* out) {
  for (int64_t i = 0; i < count; i++) out[i] = from_float<T>(x[i]);
}

template void rms_norm<float>(const float*, int, float, float*);
template void rms_norm<bf16>(const float*, int, float, bf16*);
template void convert<float>(const float*, int64_t, float*);
template void convert<bf16>(const float*, int64_t, bf16*);

}  // namespace reference
}  // namespace nanochat
