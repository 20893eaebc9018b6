// y = epilogue(x w^T) with weights of 8 or 4 bits           MODEL.md 1: the same products as matmul.cpp
#include <algorithm>
#include <cmath>

#include "reference/reference.h"

namespace nanochat {
namespace reference {

void quantize(const float* x, int k, const QuantizedRows& row) {
  for (int64_t begin = 0; begin < row.stride; begin += row.group) {
    double largest = 0, not_finite = 0;
    for (int64_t i = begin; i < std::min<int64_t>(k, begin + row.group); i++) {
      largest = std::max<double>(largest, std::fabs(x[i]));
      not_finite += 0.0 * x[i];
    }
    int sum = 0;
    for (int64_t i = begin; i < begin + row.group; i++) {
      const double value = i < k && largest > 0 ? std::nearbyint(x[i] * (127 / largest)) : 0;
      row.values[i] = static_cast<int8_t>(value >= -127 ? std::min(value, 127.0) : -127);
      sum += row.values[i];
    }
    row.groups[begin / row.group] = {static_cast<float>(largest / 127 + not_finite), -128 * sum};
  }
}

// Code k of output n in a group's codes.
template <WeightFormat format> static int code_at(const uint8_t* codes, int k, int n) {
  if (format == WeightFormat::int8) return codes[(k / 4 * kPanel + n) * 4 + k % 4] - 128;
  const uint8_t both = codes[(k / 8 * kPanel + n) * 4 + k % 4];
  return kInt4Codes[k % 8 < 4 ? both & 15 : both >> 4];
}

template <WeightFormat format> void matmul_quantized(const QuantizedPanel& a) {
  for (int r = 0; r < a.rows; r++) {
    float hidden[kPanel] = {0};
    for (int n = 0; n < a.outputs; n++) {
      double v = 0;
      for (int64_t g = 0; g < a.groups; g++) {
        const uint8_t* group = a.w + g * group_bytes(format);
        const QuantizedRows x = a.x.at(r, g * a.x.group);
        int64_t sum = 0;
        for (int k = 0; k < a.x.group; k++) sum += code_at<format>(group + kPanel * sizeof(bf16), k, n) * x.values[k];
        v += static_cast<double>(to_float(reinterpret_cast<const bf16*>(group)[n])) * x.groups->scale * static_cast<double>(sum);
      }
      float* y = static_cast<float*>(a.y) + r * a.y_stride + n;
      switch (a.epilogue) {
        case Epilogue::store: *y = static_cast<float>(v); break;
        case Epilogue::add: *y = static_cast<float>(*y + v); break;
        case Epilogue::softcap: *y = static_cast<float>(a.cap * std::tanh(v / a.cap)); break;
        case Epilogue::relu2: hidden[n] = static_cast<float>(v < 0 ? 0 : v * v); break;
      }
    }
    if (a.epilogue != Epilogue::relu2) continue;
    QuantizedRows row = a.hidden.at(r, 0);
    row.stride = kPanel;
    quantize(hidden, a.outputs, row);
  }
}

template void matmul_quantized<WeightFormat::int8>(const QuantizedPanel&);
template void matmul_quantized<WeightFormat::int4>(const QuantizedPanel&);

}  // namespace reference
}  // namespace nanochat
