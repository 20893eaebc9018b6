// The register tile that every product goes through: acc[r][lane] += sum_k x[r][k] * w[k][lane], one chain over
// ascending k per accumulator. Matrix products, attention scores and attention outputs differ in what x and w are.
// Bound: FMA throughput with 6 rows, memory or load bandwidth with 1.

// One step of the chains of a tile of MR rows and NV vectors.
template <int MR, int NV>
inline void tile_step(const float* x, int64_t x_stride, const float* w, Vec (&acc)[MR][NV]) {
  Vec wv[NV];
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) wv[v] = load(w + v * kLanes);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    const Vec xv = broadcast(x[r * x_stride]);
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[r][v] = fma(wv[v], xv, acc[r][v]);
  }
}

template <int MR, int NV>
inline void tile_step(const bf16* x, int64_t x_stride, const bf16* w, Vec (&acc)[MR][NV]) {
  Pairs wv[NV];
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) wv[v] = load_pairs(w + v * kLanes * 2);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    const Pairs xv = broadcast_pair(x + r * x_stride);
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[r][v] = dot_pairs(wv[v], xv, acc[r][v]);
  }
}

// Asks for the lines of `bytes` bytes. An address that does not exist is ignored.
template <int bytes> inline void prefetch(const void* from) {
#if defined(__GNUC__)
#pragma GCC unroll 16
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, 0, 3);
#else
  (void)from;
#endif
}

// x (MR, k) rows x_stride apart; w: steps w_stride elements apart. ahead: where the data that follows lies, or null.
template <class T, int MR, int NV, bool streams = false>
inline void tile(const T* x, int64_t x_stride, const T* w, int64_t w_stride, int k, Vec (&acc)[MR][NV], const T* ahead = nullptr) {
  for (int i = 0; i < k; i += kStep<T>) {
    if constexpr (streams) {
      prefetch<NV * kLanes * 4>(ahead);
      ahead += w_stride;
    }
    tile_step<MR, NV>(x + i, x_stride, w, acc);
    w += w_stride;
  }
}

// Vectors per tile: as many as the registers hold beside MR rows of them.
template <class T> constexpr int tile_vectors(int MR) {
#if NC_LEVEL == 3 || NC_LEVEL == 4
  return (void)MR, 4;
#elif NC_LEVEL == 1
  return MR == 1 ? 8 : std::is_same<T, bf16>::value ? 2 : 4;
#else
  return MR == 1 ? 4 : std::is_same<T, bf16>::value ? 1 : 2;
#endif
}

// Calls f with the number of rows as a constant.
template <class F> inline void with_rows(int rows, F f) {
  switch (rows) {
    case 1: f(std::integral_constant<int, 1>()); break;
    case 2: f(std::integral_constant<int, 2>()); break;
    case 3: f(std::integral_constant<int, 3>()); break;
    case 4: f(std::integral_constant<int, 4>()); break;
    case 5: f(std::integral_constant<int, 5>()); break;
    case 6: f(std::integral_constant<int, 6>()); break;
  }
}

// acc = rows[r][at ..], NV vectors of each row
template <int MR, int NV, int width> inline void load_rows(const float (*rows)[width], int at, Vec (&acc)[MR][NV]) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[r][v] = load(rows[r] + at + v * kLanes);
  }
}

template <int MR, int NV, int width> inline void store_rows(const Vec (&acc)[MR][NV], int at, float (*rows)[width]) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) store(rows[r] + at + v * kLanes, acc[r][v]);
  }
}
