// The slow twin of every CPU kernel: the equation as it reads, sums in float64, no tiles and no vectors. Tests hold the
// kernels of cpu/kernels to these, and find_kernels("reference") runs a whole model with them.
#pragma once
#include "cpu/kernels.h"

namespace nanochat {
namespace reference {

template <class T> void matmul_panel(const MatmulPanel<T>& a);
template <class T> void attention_tile(const AttentionTile<T>& a);
template <class T> void append_kv(const float* k, const float* v, int D, int slot, T* k_page, T* v_page);
template <class T> void rms_norm(const float* x, int C, float eps, T* out);
template <class T> void gated_value(float* v, const void* row, bool row_is_bf16, int D, const float* gate_weight, const T* n, int g, float m);
template <class T> void convert(const float* x, int64_t count, T* out);
void quantize(const float* x, int k, const QuantizedRows& row);
template <WeightFormat format> void matmul_quantized(const QuantizedPanel& a);
void embed(const void* row, bool row_is_bf16, int C, float eps, float* x);
void mix(float* x, const float* x0, int C, float resid, float x0_lambda);
void rope_norm(float* x, const float* cos, const float* sin, int D, float eps, float scale);

extern const Kernels kernels;

// Element of a table row of either type.
inline double element(const void* row, bool is_bf16, int i) {
  return is_bf16 ? to_float(static_cast<const bf16*>(row)[i]) : static_cast<const float*>(row)[i];
}

// 1 / sqrt(mean(x^2) + eps)
double inverse_rms(const double* x, int count, float eps);

}  // namespace reference
}  // namespace nanochat
