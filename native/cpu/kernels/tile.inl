// The register tile that every product goes through: acc[r][lane] += sum_k x[r][k] * w[k][lane], one chain over
// ascending k per accumulator. Matrix products, attention scores and attention outputs differ in what x and w are.
// Bound: FMA throughput with 6 rows, memory or load bandwidth with 1.

constexpr int kTileRows = NC_LEVEL == 0 ? 3 : 6;  // note: every size of a tile is code of its own, and g++ keeps no more rows of plain numbers in registers

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

#if NC_LEVEL == 2
// note: written as assembly because g++ 12 moves sums between registers, and then to the stack
inline Vec add_product(Vec a, Vec b, Vec sum) {
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}

// acc[r][v] += x(r) * w[v]
template <int MR, int NV, class F> inline void add_product(const F& x, const Vec (&w)[NV], Vec (&acc)[MR][NV]) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    const Vec xv = x(r);
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[r][v] = add_product(w[v], xv, acc[r][v]);
  }
}

// The products of the pairs' first elements, then of their second ones, as dot_pairs has them.
template <int MR, int NV, class First, class Second> inline void add_pairs(const First& first, const Second& second, const bf16* w, Vec (&acc)[MR][NV]) {
  Vec half[NV];
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) half[v] = low(load_pairs(w + v * kLanes * 2));
  add_product<MR, NV>(first, half, acc);
  __asm__("" : "+r"(w));  // note: read again, because both halves and the sums do not fit the registers
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) half[v] = high(load_pairs(w + v * kLanes * 2));
  add_product<MR, NV>(second, half, acc);
}
#endif

template <int MR, int NV>
inline void tile_step(const bf16* x, int64_t x_stride, const bf16* w, Vec (&acc)[MR][NV]) {
#if NC_LEVEL == 2
  if (MR > 1) {
    return add_pairs<MR, NV>([&](int r) { return low(broadcast_pair(x + r * x_stride)); }, [&](int r) { return high(broadcast_pair(x + r * x_stride)); }, w, acc);
  }
  const Pairs row = broadcast_pair(x);
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) acc[0][v] = dot_pairs(load_pairs(w + v * kLanes * 2), row, acc[0][v]);
#else
  Pairs wv[NV];
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) wv[v] = load_pairs(w + v * kLanes * 2);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    const Pairs xv = broadcast_pair(x + r * x_stride);
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) acc[r][v] = dot_pairs(wv[v], xv, acc[r][v]);
  }
#endif
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

// What a tile asks for at each of its steps: nothing, as much as it reads, or half of it, because the next tile of the same data asks
// for the other half: so the memory has something to do while either computes.
enum class Asks { nothing, half, all };

// Of more rows than one tile takes, what the first and the second tile ask for; the second's half lies kHalfStep bytes further on.
constexpr bool kHalves = kLanes == 16;  // note: shorter steps have no two halves of whole lines
constexpr Asks kFirstAsks = kHalves ? Asks::half : Asks::all, kSecondAsks = kHalves ? Asks::half : Asks::nothing;
constexpr int kHalfStep = 128;

template <int NV, Asks asks> inline void ask(const void* ahead) {
  if constexpr (asks != Asks::nothing) prefetch<NV * kLanes * 4 / (asks == Asks::half ? 2 : 1)>(ahead);
}

// x (MR, k) rows x_stride apart; w: steps w_stride elements apart. ahead: where the data to ask for lies, or null.
template <class T, int MR, int NV, Asks asks = Asks::nothing>
inline void tile(const T* x, int64_t x_stride, const T* w, int64_t w_stride, int k, Vec (&acc)[MR][NV], const T* ahead = nullptr) {
  for (int i = 0; i < k; i += kStep<T>) {
    ask<NV, asks>(ahead);
    if (asks != Asks::nothing) ahead += w_stride;
    tile_step<MR, NV>(x + i, x_stride, w, acc);
    w += w_stride;
  }
}

// Rows of a tile at most.
template <class T> constexpr int kRegisterRows = NC_LEVEL == 2 && std::is_same<T, bf16>::value ? 4 : kTileRows;

// Vectors per tile: as many as the registers hold beside MR rows of them.
template <class T> constexpr int tile_vectors(int MR) {
#if NC_LEVEL == 3
  return (void)MR, 4;
#elif defined(NC_BF16_DOT)
  return MR == 1 ? 8 : 4;
#elif NC_LEVEL == 1
  return MR == 1 ? 8 : std::is_same<T, bf16>::value ? 2 : 4;
#elif NC_LEVEL == 2
  return MR == 1 ? 8 : MR == 2 && !std::is_same<T, bf16>::value ? 4 : 2;
#else
  return MR == 1 ? 4 : std::is_same<T, bf16>::value ? 1 : 2;
#endif
}

// Calls f with the number of rows, least..most, as a constant.
template <int most = kTileRows, int least = 1, class F> inline void with_rows(int rows, F f) {
  if constexpr (most > least) {
    if (rows < most) return with_rows<most - 1, least>(rows, f);
  }
  f(std::integral_constant<int, most>());
}

// Of the rows of a product, those that the first tile takes: half of two tiles that each ask for half, or as many as it can.
inline int first_rows(int rows) { return kHalves && rows > kTileRows && rows <= 2 * kTileRows ? (rows + 1) / 2 : std::min(rows, kTileRows); }

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
