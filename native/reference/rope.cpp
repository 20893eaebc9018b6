// x = s * norm(rope(x)), halves a, b of a head: a' = a cos + b sin, b' = b cos - a sin       MODEL.md 1
// x (D) in place; cos, sin (D / 2)
#include <vector>

#include "reference/reference.h"

namespace nanochat {
namespace reference {

void rope_norm(float* x, const float* cos, const float* sin, int D, float eps, float scale) {
  std::vector<double> rotated(static_cast<size_t>(D));
  for (int i = 0; i < D / 2; i++) {
    const double a = x[i], b = x[D / 2 + i];
    rotated[static_cast<size_t>(i)] = a * cos[i] + b * sin[i];
    rotated[static_cast<size_t>(D / 2 + i)] = b * cos[i] - a * sin[i];
  }
  const double factor = scale * inverse_rms(rotated.data(), D, eps);
  for (int d = 0; d < D; d++) x[d] = static_cast<float>(rotated[static_cast<size_t>(d)] * factor);
}

}  // namespace reference
}  // namespace nanochat
