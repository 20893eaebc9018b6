// norm(x) = x * rsqrt(mean(x^2) + eps)                       MODEL.md 1
// x (C) float -> (C); the mean is 16 chains over ascending blocks of 16, then a fixed tree
// One call is one row. Bound: L1.

inline float inverse_rms(const float* x, int C, float eps) {
  alignas(64) float lanes[16];
  Vec sums[16 / kLanes];
  for (Vec& sum : sums) sum = broadcast(0.0f);
  int c = 0;
  for (; c + 16 <= C; c += 16) {
#pragma GCC unroll 4
    for (int v = 0; v < 16 / kLanes; v++) {
      const Vec xv = load(x + c + v * kLanes);
      sums[v] = fma(xv, xv, sums[v]);
    }
  }
  for (int v = 0; v < 16 / kLanes; v++) store(lanes + v * kLanes, sums[v]);
  for (int i = 0; c < C; c++, i++) lanes[i] += x[c] * x[c];
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return 1.0f / std::sqrt(lanes[0] / static_cast<float>(C) + eps);
}

// out (C) = rounded scale * x
template <class T> inline void scale_all(const float* x, int C, float scale, T* out) {
  const Vec scale_v = broadcast(scale);
  int c = 0;
  for (; c + kLanes <= C; c += kLanes) store(out + c, mul(load(x + c), scale_v));
  for (; c < C; c++) out[c] = from_float<T>(x[c] * scale);
}

template <class T> void rms_norm(const float* x, int C, float eps, T* out) {
  scale_all(x, C, inverse_rms(x, C, eps), out);
}

inline void embed(const void* row, bool row_is_bf16, int C, float eps, float* x) {
  if (row_is_bf16) {
    const bf16* source = static_cast<const bf16*>(row);
    for (int c = 0; c < C; c++) x[c] = to_float(source[c]);
  } else {
    std::memcpy(x, row, sizeof(float) * C);
  }
  scale_all(x, C, inverse_rms(x, C, eps), x);
}

inline void mix(float* x, const float* x0, int C, float resid, float x0_lambda) {
  for (int c = 0; c < C; c++) x[c] = resid * x[c] + x0_lambda * x0[c];
}

template <class T> void convert(const float* x, int64_t count, T* out) {
  store_all(x, static_cast<int>(count), out);
}
