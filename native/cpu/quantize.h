// Weights of 8 and 4 bits from float32: what is stored in a panel (kernels.h, WeightFormat).
#pragma once
#include <cstdint>

#include "cpu/kernels.h"

namespace nanochat {

// Writes one output's weights (k) to lane 0..63 of a packed panel, its groups each with the scale of least squared error
// among those that are tried. A group with a weight that is not finite gets the scale NaN.
void quantize_weights(WeightFormat format, const float* weights, int k, int lane, uint8_t* panel);

}  // namespace nanochat
