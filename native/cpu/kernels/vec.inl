// The vector of float32 that the kernels are written in, for the instruction set of the including file. The kernels
// need: load, store (to float32, and rounded to bf16 or, from whole numbers of -128..127, int8; a NaN gives any int8), broadcast, fma, add, sub,
// mul, div, max, min, round_to_int, pow2, zero_below, keep_lanes (those of [from, to), another number elsewhere), and for bf16 pairs: load_pairs, broadcast_pair, dot_pairs. For products of quantised weights, four k of each lane at a time: load_quads,
// broadcast_quad, dot_quads over Ints that start at start_quads (AVX2: streams.inl), load_nibbles (two steps of four k), store_quads (as
// load_quads reads them), to_floats, load_scales.
// With NC_INT8_DOT dot_quads is an instruction, with NC_BF16_DOT dot_pairs and store_normal as well.

// kInt4Codes as int8 weights are stored, q + 128.
alignas(16) constexpr uint8_t kInt4Bytes[16] = {
    kInt4Codes[0] + 128, kInt4Codes[1] + 128, kInt4Codes[2] + 128, kInt4Codes[3] + 128, kInt4Codes[4] + 128, kInt4Codes[5] + 128,
    kInt4Codes[6] + 128, kInt4Codes[7] + 128, kInt4Codes[8] + 128, kInt4Codes[9] + 128, kInt4Codes[10] + 128, kInt4Codes[11] + 128,
    kInt4Codes[12] + 128, kInt4Codes[13] + 128, kInt4Codes[14] + 128, kInt4Codes[15] + 128};

#if NC_LEVEL == 3
constexpr int kLanes = 16;
using Vec = __m512;
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline void store(bf16* p, Vec a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0))));
}
inline void store(int8_t* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a))); }
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
inline Vec keep_lanes(Vec value, int from, int to, float other) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mask_mov_ps(_mm512_set1_ps(other), _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(from)) & _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(to)), value);
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  const __m512i bit = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), _mm512_and_si512(bit, _mm512_castps_si512(sign))));
}
using Pairs = __m512i;
inline Pairs load_pairs(const bf16* p) { return _mm512_loadu_si512(p); }
inline Pairs broadcast_pair(const bf16* p) { int bits; std::memcpy(&bits, p, 4); return _mm512_set1_epi32(bits); }
#ifdef NC_BF16_DOT
inline void store_normal(bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a))); }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)); }
#else
inline Vec low(Pairs a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
inline Vec high(Pairs a) { return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))); }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return fma(high(a), high(b), fma(low(a), low(b), c)); }
#endif

using Ints = __m512i;
using Quads = __m512i;
inline Quads load_quads(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Quads broadcast_quad(const int8_t* p) { int bits; std::memcpy(&bits, p, 4); return _mm512_set1_epi32(bits); }
inline Vec to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
inline Vec load_scales(const bf16* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16)); }
inline void load_nibbles(const uint8_t* p, Quads* first, Quads* second) {
  const __m512i codes = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kInt4Bytes))), mask = _mm512_set1_epi8(15);
  const __m512i both = _mm512_loadu_si512(p);
  *first = _mm512_shuffle_epi8(codes, _mm512_and_si512(both, mask));
  *second = _mm512_shuffle_epi8(codes, _mm512_and_si512(_mm512_srli_epi16(both, 4), mask));
}
#ifdef NC_INT8_DOT
inline Ints start_quads(int32_t offset) { return _mm512_set1_epi32(offset); }
// note: written as assembly because g++ 12 moves every sum of the intrinsic through the stack
inline Ints dot_quads(Ints sum, Quads w, Quads x) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  return sum;
}
#else
inline Ints start_quads(int32_t) { return _mm512_setzero_si512(); }
inline Ints dot_quads(Ints sum, Quads w, Quads x) {
  const __m512i q = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
  const __m512i signed_q = _mm512_mask_sub_epi8(q, _mm512_movepi8_mask(x), _mm512_setzero_si512(), q);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_abs_epi8(x), signed_q), _mm512_set1_epi16(1)));
}
#endif

#elif NC_LEVEL == 2
constexpr int kLanes = 8;
using Vec = __m256;
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const bf16* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16)); }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
inline void store(bf16* p, Vec a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void store(int8_t* p, Vec a) {
  const __m256i whole = _mm256_cvtps_epi32(a);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
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
inline Vec keep_lanes(Vec value, int from, int to, float other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i others = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane), _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(to - 1)));
  return _mm256_blendv_ps(value, _mm256_set1_ps(other), _mm256_castsi256_ps(others));
}
inline Vec copy_sign(Vec magnitude, Vec sign) { return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign)); }
using Pairs = __m256i;
inline Pairs load_pairs(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Pairs broadcast_pair(const bf16* p) { int bits; std::memcpy(&bits, p, 4); return _mm256_set1_epi32(bits); }
inline Vec low(Pairs a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
inline Vec high(Pairs a) { return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))); }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return fma(high(a), high(b), fma(low(a), low(b), c)); }

using Ints = __m256i;
using Quads = __m256i;
inline Quads load_quads(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Quads broadcast_quad(const int8_t* p) { int bits; std::memcpy(&bits, p, 4); return _mm256_set1_epi32(bits); }
// sum + products of stored codes w and of an x of which streams.inl makes magnitudes and flips. note: written as assembly because g++ 12 interleaves what has to follow, and puts sums on the stack
inline Ints dot_quads(Ints sum, Quads w, Quads magnitudes, Quads flips) {
  Quads products;
  __asm__("vpxor %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
          : "+x"(sum), "=&x"(products) : "x"(w), "x"(magnitudes), "x"(flips), "x"(_mm256_set1_epi16(1)));
  return sum;
}
inline Vec to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
inline Vec load_scales(const bf16* p) { return load(p); }
inline void load_nibbles(const uint8_t* p, Quads* first, Quads* second) {
  const __m256i codes = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kInt4Bytes))), mask = _mm256_set1_epi8(15);
  const __m256i both = load_quads(p);
  *first = _mm256_shuffle_epi8(codes, _mm256_and_si256(both, mask));
  *second = _mm256_shuffle_epi8(codes, _mm256_and_si256(_mm256_srli_epi16(both, 4), mask));
}

#elif NC_LEVEL == 1
constexpr int kLanes = 4;
using Vec = float32x4_t;
inline Vec load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Vec a) { vst1q_f32(p, a); }
inline void store(bf16* p, Vec a) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
  vst1_u16(&p->bits, vmovn_u32(vbslq_u32(vceqq_f32(a, a), rounded, vdupq_n_u32(0x7fc0))));
}
inline void store(int8_t* p, Vec a) {
  const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(a));
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
  std::memcpy(p, &bytes, 4);
}
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
inline Vec keep_lanes(Vec value, int from, int to, float other) {
  const int32_t lanes[4] = {0, 1, 2, 3};
  const int32x4_t lane = vld1q_s32(lanes);
  return vbslq_f32(vandq_u32(vcgeq_s32(lane, vdupq_n_s32(from)), vcltq_s32(lane, vdupq_n_s32(to))), value, vdupq_n_f32(other));
}
inline Vec copy_sign(Vec magnitude, Vec sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude); }
#ifdef NC_INT8_DOT
// Four bytes in the first lane, from which the products take what is broadcast. note: filling the others would take the place of a product
template <class V> inline V load_first_lane(const void* p) {
  typedef uint32_t __attribute__((may_alias, aligned(1))) Bits;
  V v;
  __asm__("ldr %s0, %1" : "=w"(v) : "m"(*static_cast<const Bits*>(p)));
  return v;
}
#endif

using Pairs = uint32x4_t;
inline Pairs load_pairs(const bf16* p) { return vreinterpretq_u32_u16(vld1q_u16(&p->bits)); }
#ifdef NC_BF16_DOT
inline Pairs broadcast_pair(const bf16* p) { return load_first_lane<Pairs>(p); }
// note: written as assembly, like the other instructions of these sets, because clang before 16 has their intrinsics only where a whole file is compiled for them
inline Vec dot_pairs(Pairs w, Pairs x, Vec sum) {
  __asm__("bfdot %0.4s, %1.8h, %2.2h[0]" : "+w"(sum) : "w"(w), "w"(x));
  return sum;
}
inline void store_normal(bf16* p, Vec a) {
  uint16x8_t rounded;
  __asm__("bfcvtn %0.4h, %1.4s" : "=w"(rounded) : "w"(a));
  vst1_u16(&p->bits, vget_low_u16(rounded));
}
#else
inline Pairs broadcast_pair(const bf16* p) { uint32_t bits; std::memcpy(&bits, p, 4); return vdupq_n_u32(bits); }
inline Vec low(Pairs a) { return vreinterpretq_f32_u32(vshlq_n_u32(a, 16)); }
inline Vec high(Pairs a) { return vreinterpretq_f32_u32(vandq_u32(a, vdupq_n_u32(0xffff0000u))); }
inline Vec dot_pairs(Pairs a, Pairs b, Vec c) { return fma(high(a), high(b), fma(low(a), low(b), c)); }
#endif

using Ints = int32x4_t;
using Quads = int8x16_t;  // the codes, without the 128 that is added to those stored
inline Quads without_offset(uint8x16_t stored) { return vreinterpretq_s8_u8(veorq_u8(stored, vdupq_n_u8(128))); }
inline Quads load_quads(const uint8_t* p) { return without_offset(vld1q_u8(p)); }
inline void store_quads(uint8_t* p, Quads a) { vst1q_u8(p, veorq_u8(vreinterpretq_u8_s8(a), vdupq_n_u8(128))); }
inline Ints start_quads(int32_t) { return vdupq_n_s32(0); }
#ifdef NC_INT8_DOT
inline Quads broadcast_quad(const int8_t* p) { return load_first_lane<Quads>(p); }
inline Ints dot_quads(Ints sum, Quads w, Quads x) {
  __asm__("sdot %0.4s, %1.16b, %2.4b[0]" : "+w"(sum) : "w"(w), "w"(x));
  return sum;
}
#else
inline Quads broadcast_quad(const int8_t* p) { int32_t bits; std::memcpy(&bits, p, 4); return vreinterpretq_s8_s32(vdupq_n_s32(bits)); }
inline Ints dot_quads(Ints sum, Quads w, Quads x) {
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x))), high = vpaddlq_s16(vmull_high_s8(w, x));
  return vaddq_s32(sum, vpaddq_s32(low, high));
}
#endif
inline Vec to_floats(Ints a) { return vcvtq_f32_s32(a); }
inline Vec load_scales(const bf16* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16)); }
inline void load_nibbles(const uint8_t* p, Quads* first, Quads* second) {
  const Quads codes = load_quads(kInt4Bytes);
  const uint8x16_t both = vld1q_u8(p);
  *first = vqtbl1q_s8(codes, vandq_u8(both, vdupq_n_u8(15)));
  *second = vqtbl1q_s8(codes, vshrq_n_u8(both, 4));
}

#else
constexpr int kLanes = 4;
struct Vec { float v[4]; };
template <class F> inline Vec each(F f) { return {{f(0), f(1), f(2), f(3)}}; }
inline Vec load(const float* p) { return each([&](int i) { return p[i]; }); }
inline void store(float* p, Vec a) { for (int i = 0; i < 4; i++) p[i] = a.v[i]; }
inline void store(bf16* p, Vec a) { for (int i = 0; i < 4; i++) p[i] = to_bf16(a.v[i]); }
inline void store(int8_t* p, Vec a) { for (int i = 0; i < 4; i++) p[i] = static_cast<int8_t>(a.v[i] == a.v[i] ? a.v[i] : 0.0f); }
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
inline Vec keep_lanes(Vec value, int from, int to, float other) { return each([&](int i) { return from <= i && i < to ? value.v[i] : other; }); }
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

struct Ints { int32_t v[4]; };
struct Quads { uint8_t v[16]; };
inline Quads load_quads(const uint8_t* p) { Quads a; std::memcpy(&a, p, sizeof a); return a; }
inline Quads broadcast_quad(const int8_t* p) { Quads a; for (int i = 0; i < 16; i += 4) std::memcpy(a.v + i, p, 4); return a; }
inline Ints start_quads(int32_t offset) { return {{offset, offset, offset, offset}}; }
inline Ints dot_quads(Ints sum, Quads w, Quads x) {
  for (int i = 0; i < 16; i++) sum.v[i / 4] += w.v[i] * static_cast<int8_t>(x.v[i]);
  return sum;
}
inline Vec to_floats(Ints a) { return each([&](int i) { return static_cast<float>(a.v[i]); }); }
inline Vec load_scales(const bf16* p) { return each([&](int i) { return to_float(p[i]); }); }
inline void load_nibbles(const uint8_t* p, Quads* first, Quads* second) {
  for (int i = 0; i < 16; i++) {
    first->v[i] = kInt4Bytes[p[i] & 15];
    second->v[i] = kInt4Bytes[p[i] >> 4];
  }
}
#endif

#if NC_LEVEL != 1
inline void store_quads(uint8_t* p, Quads a) { std::memcpy(p, &a, sizeof a); }
#endif

// The same as store for numbers that are 0 or not below 2^-126 in magnitude.
inline void store_normal(float* p, Vec a) { store(p, a); }
#ifndef NC_BF16_DOT
inline void store_normal(bf16* p, Vec a) { store(p, a); }
#endif

// e^x for x <= 88, exactly 0 below -87: 2^n * e^r with |r| <= ln(2) / 2 and the Taylor series of e^r to r^7.
inline Vec exp(Vec x) {
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

inline float largest_lane(Vec a) {
#if NC_LEVEL == 3
  return _mm512_reduce_max_ps(a);
#else
  float lanes[kLanes];
  store(lanes, a);
  float largest = lanes[0];
  for (int i = 1; i < kLanes; i++) largest = std::max(largest, lanes[i]);
  return largest;
#endif
}

// In the order that is fastest.
inline float sum_lanes(Vec a) {
#if NC_LEVEL == 3
  return _mm512_reduce_add_ps(a);
#else
  float lanes[kLanes];
  store(lanes, a);
  float sum = 0;
  for (int i = 0; i < kLanes; i++) sum += lanes[i];
  return sum;
#endif
}

// out (count) = rounded x (count)
template <class T> inline void store_all(const float* x, int count, T* out) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, load(x + i));
  for (; i < count; i++) out[i] = from_float<T>(x[i]);
}

// tanh(x) = sign(x) * (1 - e) / (1 + e), e = exp(-2|x|)
inline Vec tanh(Vec x) {
  const Vec magnitude = max(x, sub(broadcast(0.0f), x));
  const Vec e = exp(mul(magnitude, broadcast(-2.0f)));
  return copy_sign(div(sub(broadcast(1.0f), e), add(broadcast(1.0f), e)), x);
}
