// The vector of float32 that the kernels are written in, for the instruction set of the including file. The kernels
// need: load, store, broadcast, fma, add, sub, mul, div, max, min, round_to_int, pow2, zero_below, and for bf16 pairs:
// load_pairs, broadcast_pair, dot_pairs.

#if NC_LEVEL == 3 || NC_LEVEL == 4
constexpr int kLanes = 16;
using Vec = __m512;
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline Vec broadcast(float x) { return _mm512_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec round_to_int(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec pow2(Vec n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23)); }
inline Vec zero_below(Vec value, Vec x, float least) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_NLT_UQ), value); }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  const __m512i bit = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), _mm512_and_si512(bit, _mm512_castps_si512(sign))));
}
using Pairs = __m512i;
inline Pairs load_pairs(const bf16* p) { return _mm512_loadu_si512(p); }
inline Pairs broadcast_pair(const bf16* p) { int bits; std::memcpy(&bits, p, 4); return _mm512_set1_epi32(bits); }
#if NC_LEVEL == 4
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)); }
#else
inline Vec low(Pairs a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
inline Vec high(Pairs a) { return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))); }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return fma(high(a), high(b), fma(low(a), low(b), c)); }
#endif

#elif NC_LEVEL == 2
constexpr int kLanes = 8;
using Vec = __m256;
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
inline Vec broadcast(float x) { return _mm256_set1_ps(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec round_to_int(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec pow2(Vec n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)); }
inline Vec zero_below(Vec value, Vec x, float least) { return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(least), _CMP_NLT_UQ), value); }
inline Vec copy_sign(Vec magnitude, Vec sign) { return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign)); }
using Pairs = __m256i;
inline Pairs load_pairs(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Pairs broadcast_pair(const bf16* p) { int bits; std::memcpy(&bits, p, 4); return _mm256_set1_epi32(bits); }
inline Vec low(Pairs a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
inline Vec high(Pairs a) { return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))); }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return fma(high(a), high(b), fma(low(a), low(b), c)); }

#elif NC_LEVEL == 1
constexpr int kLanes = 4;
using Vec = float32x4_t;
inline Vec load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Vec a) { vst1q_f32(p, a); }
inline Vec broadcast(float x) { return vdupq_n_f32(x); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
inline Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
inline Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
inline Vec min(Vec a, Vec b) { return vminq_f32(a, b); }
inline Vec round_to_int(Vec a) { return vrndnq_f32(a); }
inline Vec pow2(Vec n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23)); }
inline Vec zero_below(Vec value, Vec x, float least) { return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(x, vdupq_n_f32(least)))); }
inline Vec copy_sign(Vec magnitude, Vec sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude); }
using Pairs = uint32x4_t;
inline Pairs load_pairs(const bf16* p) { return vreinterpretq_u32_u16(vld1q_u16(&p->bits)); }
inline Pairs broadcast_pair(const bf16* p) { uint32_t bits; std::memcpy(&bits, p, 4); return vdupq_n_u32(bits); }
inline Vec low(Pairs a) { return vreinterpretq_f32_u32(vshlq_n_u32(a, 16)); }
inline Vec high(Pairs a) { return vreinterpretq_f32_u32(vandq_u32(a, vdupq_n_u32(0xffff0000u))); }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return fma(high(a), high(b), fma(low(a), low(b), c)); }

#else
constexpr int kLanes = 4;
struct Vec { float v[4]; };
template <class F> inline Vec each(F f) { return {{f(0), f(1), f(2), f(3)}}; }
inline Vec load(const float* p) { return each([&](int i) { return p[i]; }); }
inline void store(float* p, Vec a) { for (int i = 0; i < 4; i++) p[i] = a.v[i]; }
inline Vec broadcast(float x) { return {{x, x, x, x}}; }
inline Vec fma(Vec a, Vec b, Vec c) { return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
inline Vec add(Vec a, Vec b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Vec sub(Vec a, Vec b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Vec mul(Vec a, Vec b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Vec div(Vec a, Vec b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline Vec max(Vec a, Vec b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec min(Vec a, Vec b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec round_to_int(Vec a) { return each([&](int i) { return std::nearbyint(a.v[i]); }); }
inline Vec pow2(Vec n) {
  return each([&](int i) {
    const int32_t bits = n.v[i] >= -126 ? (static_cast<int32_t>(n.v[i]) + 127) << 23 : 0;  // 0 for a NaN, which has no integer
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  });
}
inline Vec zero_below(Vec value, Vec x, float least) { return each([&](int i) { return x.v[i] < least ? 0.0f : value.v[i]; }); }
inline Vec copy_sign(Vec magnitude, Vec sign) { return each([&](int i) { return std::copysign(magnitude.v[i], sign.v[i]); }); }
struct Pairs { bf16 v[8]; };
inline Pairs load_pairs(const bf16* p) { Pairs a; std::memcpy(&a, p, sizeof a); return a; }
inline Pairs broadcast_pair(const bf16* p) { return {{p[0], p[1], p[0], p[1], p[0], p[1], p[0], p[1]}}; }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) {
  return each([&](int i) {
    const float first = to_float(a.v[2 * i]) * to_float(b.v[2 * i]) + c.v[i];
    return to_float(a.v[2 * i + 1]) * to_float(b.v[2 * i + 1]) + first;
  });
}
#endif

// e^x for x <= 0, exactly 0 below -87: 2^n * e^r with |r| <= ln(2) / 2 and the Taylor series of e^r to r^7.
inline Vec exp_nonpositive(Vec x) {
  const Vec clamped = max(broadcast(-87.0f), x);  // note: of a NaN and a number, max gives its second argument
  const Vec n = round_to_int(mul(clamped, broadcast(1.44269504f)));
  Vec r = fma(n, broadcast(-0.693359375f), clamped);  // note: ln(2) in two parts, the first is exact in 10 bits
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.0f / 5040);
  p = fma(p, r, broadcast(1.0f / 720));
  p = fma(p, r, broadcast(1.0f / 120));
  p = fma(p, r, broadcast(1.0f / 24));
  p = fma(p, r, broadcast(1.0f / 6));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return zero_below(mul(p, pow2(n)), x, -87.0f);
}

// tanh(x) = sign(x) * (1 - e) / (1 + e), e = exp(-2|x|)
inline Vec tanh(Vec x) {
  const Vec magnitude = max(x, sub(broadcast(0.0f), x));
  const Vec e = exp_nonpositive(mul(magnitude, broadcast(-2.0f)));
  return copy_sign(div(sub(broadcast(1.0f), e), add(broadcast(1.0f), e)), x);
}
