// v += m * sigmoid(ve_gate . n[0:g]) * value_embeds[id]      MODEL.md 1, generations G4 and later
// v (D) float, row (D) bf16 or float, gate_weight (g), n (g) T
// One call is one kv head of one token. Bound: the table row's cache miss.

template <class T>
void gated_value(float* v, const void* row, bool row_is_bf16, int D, const float* gate_weight, const T* n, int g, float m) {
  float dot = 0;
  for (int c = 0; c < g; c++) dot += gate_weight[c] * to_float(n[c]);
  const float gate = m / (1.0f + std::exp(-dot));
  if (row_is_bf16) {
    const bf16* source = static_cast<const bf16*>(row);
    for (int d = 0; d < D; d++) v[d] += gate * to_float(source[d]);
  } else {
    const float* source = static_cast<const float*>(row);
    for (int d = 0; d < D; d++) v[d] += gate * source[d];
  }
}
