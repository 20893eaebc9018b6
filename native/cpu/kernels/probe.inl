// What the machine can do at most, for the roofs of the benchmarks (cpu/probe.h).

constexpr int kProbeChains = NC_LEVEL == 0 || NC_LEVEL == 2 ? 12 : 24;  // enough to cover the latency of every multiply-add unit

// Reads data (count): `streams` runs of it side by side, which keeps several of the prefetcher's pages open, or one run
// whose lines are asked for ahead as the kernels do. count is a multiple of 8 vectors per stream. Returns a sum, so that
// nothing is left out.
template <int streams, bool ahead> inline float read_streams(const float* data, int64_t count) {
  constexpr int NV = 8 / streams;
  const int64_t run = count / streams;
  Vec acc[8];
  for (Vec& a : acc) a = broadcast(0.0f);
  for (int64_t i = 0; i < run; i += NV * kLanes) {
    if (ahead) prefetch<NV * kLanes * 4>(reinterpret_cast<const char*>(data + i) + kAheadBytes);
#pragma GCC unroll 8
    for (int s = 0; s < streams; s++) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) acc[s * NV + v] = add(acc[s * NV + v], load(data + s * run + i + v * kLanes));
    }
  }
  for (int v = 1; v < 8; v++) acc[0] = add(acc[0], acc[v]);
  return sum_lanes(acc[0]);
}

inline float probe_read(const float* data, int64_t count, int streams) {
  return streams == 4 ? read_streams<4, false>(data, count) : streams == 1 ? read_streams<1, false>(data, count) : read_streams<1, true>(data, count);
}

inline Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
inline Vec multiply_add(Pairs a, Pairs b, Vec c) { return dot_pairs(a, b, c); }
inline Vec load_operand(const float* p) { return load(p); }
inline Pairs load_operand(const bf16* p) { return load_pairs(p); }

// `steps` multiply-adds on each of kProbeChains independent chains, all in registers; start (kProbeChains, lanes).
template <class T> double probe_products(const T* x, const float* start, int64_t steps, float* sum) {
  const auto a = load_operand(x), b = load_operand(x + kLanes * kStep<T>);
  Vec acc[kProbeChains];
#pragma GCC unroll 24
  for (int i = 0; i < kProbeChains; i++) acc[i] = load(start + i * kLanes);
  for (int64_t s = 0; s < steps; s++) {
#pragma GCC unroll 24
    for (int i = 0; i < kProbeChains; i++) acc[i] = multiply_add(a, b, acc[i]);
  }
  *sum = 0;
#pragma GCC unroll 24
  for (int i = 0; i < kProbeChains; i++) *sum += sum_lanes(acc[i]);
  return 2.0 * kStep<T> * kLanes * kProbeChains * static_cast<double>(steps);
}

// The same for products of quads of int8, whose sums are integers.
template <> double probe_products<int8_t>(const int8_t* x, const float*, int64_t steps, float* sum) {
  Ints acc[kProbeChains];
#if NC_LEVEL == 2
  const Quads a = load_quads(reinterpret_cast<const uint8_t*>(x));
  for (int i = 0; i < kProbeChains; i++) acc[i] = _mm256_set1_epi32(i);
  for (int64_t s = 0; s < steps; s++) {
#pragma GCC unroll 24
    for (int i = 0; i < kProbeChains; i++) acc[i] = dot_quads(acc[i], a, a, a);
  }
#else
  const volatile int8_t* first = x;  // note: sums of the same integers would be a single product to the compiler
#pragma GCC unroll 24
  for (int i = 0; i < kProbeChains; i++) acc[i] = start_quads(i);
  for (int64_t s = 0; s < steps; s++) {
    const int8_t quad[4] = {*first, *first, *first, *first};
    const Quads a = load_quads(reinterpret_cast<const uint8_t*>(x)), b = broadcast_quad(quad);
#pragma GCC unroll 24
    for (int i = 0; i < kProbeChains; i++) acc[i] = dot_quads(acc[i], a, b);
  }
#endif
  *sum = 0;
#pragma GCC unroll 24
  for (int i = 0; i < kProbeChains; i++) *sum += sum_lanes(to_floats(acc[i]));
  return 2.0 * 4 * kLanes * kProbeChains * static_cast<double>(steps);
}
