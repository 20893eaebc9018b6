// x = s * norm(rope(x)), halves a, b of a head: a' = a cos + b sin, b' = b cos - a sin       MODEL.md 1
// x (D) float in place; cos, sin (D / 2)
// note: the rotation is by -theta. One call is one head of one token. Bound: L1.

void rope_norm(float* x, const float* cos, const float* sin, int D, float eps, float scale) {
  const int half = D / 2;
  float* a = x;
  float* b = x + half;
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec ai = load(a + i), bi = load(b + i), ci = load(cos + i), si = load(sin + i);
    store(a + i, fma(ai, ci, mul(bi, si)));
    store(b + i, sub(mul(bi, ci), mul(ai, si)));
  }
  for (; i < half; i++) {
    const float ai = a[i], bi = b[i];
    a[i] = ai * cos[i] + bi * sin[i];
    b[i] = bi * cos[i] - ai * sin[i];
  }
  scale_all(x, D, scale * inverse_rms(x, D, eps), x);
}
