// y = epilogue(x w^T)                            MODEL.md 1: the products of matmul.inl and quantized.inl, with the same sums,
// for 8 lanes, 16 registers and no instruction for pairs of bf16 or quads of int8
// x (rows, K), w up to kStreams packed panels -> y (rows, 64 for each panel)
// The panels take turns, because a core that reads several places reads faster than one that reads a single one; what one row reads
// is not asked for ahead, which such a core's own reading ahead does not survive. Sums wait in the first cache for their next turn.
// Bound: memory for one row, multiply-adds for many; measured shares in docs/bench.md.
constexpr int kStreams = 4;
static_assert(kStreams * kStreamRows <= kRowBlock, "the sums of all panels have a row each");

// Lines of memory that a tile asks for, into the second cache: a tile passes a line more than once, and not in the order in memory.
struct Lines {
  const char* from;
  int64_t count;

  // Asks for one of so many parts.
  void ask(int64_t part = 0, int64_t parts = 1) const {
    for (int64_t i = count * part / parts; i < count * (part + 1) / parts; i++) __builtin_prefetch(from + i * 64, 0, 2);
  }
};

// Calls f(rows of the tile, its first row, the lines to ask for) for tiles of at most `most` rows, as few as can be and of nearly the
// same size, so that of two or more rows no tile has a single one. Each gets a part of what is read next, `bytes` from `next` on.
template <int most, class F> inline void each_tile(int rows, const void* next, int64_t bytes, const F& f) {
  const int tiles = (rows + most - 1) / most;
  for (int tile = 0; tile < tiles; tile++) {
    const int first = rows * tile / tiles;
    const int64_t from = bytes * tile / tiles / 64, to = bytes * (tile + 1) / tiles / 64;
    const Lines lines = {static_cast<const char*>(next) + from * 64, to - from};
    with_rows<most, 2>(rows * (tile + 1) / tiles - first, [&](auto MR) { f(MR, first, lines); });
  }
}

template <int MR, int NV> inline void float_step(const float* x, int64_t x_stride, const float* w, Vec (&acc)[MR][NV]) { tile_step<MR, NV>(x, x_stride, w, acc); }

template <int MR, int NV> inline void float_step(const float* x, int64_t x_stride, const bf16* w, Vec (&acc)[MR][NV]) {
  add_pairs<MR, NV>([&](int r) { return broadcast(x[r * x_stride]); }, [&](int r) { return broadcast(x[r * x_stride + 1]); }, w, acc);
}

// acc[r][n] += sum over k of x[r][k] * w[n][k]. note: asking between the blocks of outputs spares float32 a wait for all its lines at
// once, where there are products to do meanwhile; to bf16, with half the lines, it costs more than that.
template <class T, int MR> inline void add_float_products(const float* x, int64_t x_stride, const T* w, int k, const Lines& next, float (*acc)[kPanel]) {
  constexpr int NV = MR == 2 ? 4 : 2;
  constexpr bool by_block = std::is_same<T, float>::value && MR > 3;
  if (!by_block) next.ask();
  for (int output = 0; output < kPanel; output += NV * kLanes) {
    if (by_block) next.ask(output / (NV * kLanes), kPanel / (NV * kLanes));
    Vec sums[MR][NV];
    load_rows<MR, NV>(acc, output, sums);
    const T* at = w + output * kStep<T>;
    for (int i = 0; i < k; i += kStep<T>, at += kPanel * kStep<T>) float_step<MR, NV>(x + i, x_stride, at, sums);
    store_rows<MR, NV>(sums, output, acc);
  }
}

// The same of one row, whose pairs of bf16 stay pairs.
template <class T> inline void add_row_products(const T* x, const T* w, int k, float (*acc)[kPanel]) {
  constexpr int NV = kPanel / kLanes;
  Vec sums[1][NV];
  load_rows<1, NV>(acc, 0, sums);
  tile<T, 1, NV>(x, 0, w, kPanel * kStep<T>, k, sums);
  store_rows<1, NV>(sums, 0, acc);
}

template <class T> inline void to_floats(const T* x, int count, float* out) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, load(x + i));
  for (; i < count; i++) out[i] = to_float(x[i]);
}

// Elements of k in one turn. One row: no more than the core has under way; several: few enough for the second cache to be asked
// ahead; many: as far as a panel stays in the first.
constexpr int kLongTurn = 64;
template <class T> constexpr int turn(int rows) {
  return rows == 1 ? 1024 / (kPanel * static_cast<int>(sizeof(T))) : rows > kStreamRows ? kLongTurn : std::is_same<T, bf16>::value ? 8 : 16;
}

template <class T> void matmul_panel(const MatmulPanel<T>& a) {
  constexpr int x_stride = kLongTurn + 16;  // note: as they lie, rows can share their sets of the cache
  alignas(64) float acc[kRowBlock][kPanel];  // (panels, rows, 64)
  alignas(64) float x[kRowBlock * x_stride];
  std::fill_n(acc[0], a.panels * a.rows * kPanel, 0.0f);
  for (int from = 0; from < a.k; from += turn<T>(a.rows)) {
    const int k = std::min(turn<T>(a.rows), a.k - from);
    if (a.rows > 1) {
      for (int r = 0; r < a.rows; r++) to_floats(a.x + r * a.x_stride + from, k, x + r * x_stride);
    }
    for (int panel = 0; panel < a.panels; panel++) {
      const T* w = a.w + panel * panel_elements<T>(a.k) + from * kPanel;
      float (*sums)[kPanel] = acc + panel * a.rows;
      if (a.rows == 1) {
        add_row_products(a.x + from, w, k, sums);
        continue;
      }
      each_tile<kRegisterRows<T>>(a.rows, w + k * kPanel, k * kPanel * static_cast<int64_t>(sizeof(T)),
                                   [&](auto MR, int r, const Lines& next) { add_float_products<T, MR>(x + r * x_stride, x_stride, w, k, next, sums + r); });
    }
  }
  for (int panel = 0; panel < a.panels; panel++) {
    const int outputs = panel + 1 < a.panels ? kPanel : a.outputs;
    for (int r = 0; r < a.rows; r++) {
      const float* sums = acc[panel * a.rows + r];
      const int64_t at = r * a.y_stride + panel * kPanel;
      if (a.epilogue == Epilogue::relu2) write_rounded_row(sums, outputs, static_cast<T*>(a.y) + at);
      else write_row(a.epilogue, a.cap, sums, outputs, static_cast<float*>(a.y) + at);
    }
  }
}

// A group of a row as vpmaddubsw takes it: sum |x| * (u ^ flips) + negatives = sum x * q, where u = q + 128 is a stored code, because
// ~q = -q - 1. Two such products fit 16 bits.
struct QuadRow {
  alignas(32) uint8_t magnitudes[64];
  alignas(32) uint8_t flips[64];
  int32_t negatives;  // the sum of |x| where x < 0
};

inline void split_signs(const int8_t* x, int group, QuadRow* row) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i sum = zero;
  for (int k = 0; k < group; k += 32) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k));
    const __m256i is_negative = _mm256_cmpgt_epi8(zero, v), magnitude = _mm256_abs_epi8(v);
    _mm256_store_si256(reinterpret_cast<__m256i*>(row->magnitudes + k), magnitude);
    _mm256_store_si256(reinterpret_cast<__m256i*>(row->flips + k), _mm256_xor_si256(is_negative, _mm256_set1_epi8(-128)));
    sum = _mm256_add_epi64(sum, _mm256_sad_epu8(_mm256_and_si256(magnitude, is_negative), zero));
  }
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  row->negatives = _mm_cvtsi128_si32(half) + _mm_extract_epi32(half, 2);
}

inline Quads quad_at(const uint8_t* values, int k) { return broadcast_quad(reinterpret_cast<const int8_t*>(values + k)); }

inline Ints load(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store(int32_t* p, Ints a) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), a); }

constexpr int kCodesTurn = 8;      // of one row
constexpr int kCodesTileRows = 4;  // of several, beside two vectors of codes

// One row and panel: the products of kCodesTurn of a group's k, from k on, with their codes. The group's first begin sums (64), its
// last add them to acc (64).
template <WeightFormat format>
inline void add_turn(const QuadRow& x, float x_scale, const bf16* scales, const uint8_t* codes, int k, int32_t* sums, float* acc) {
  constexpr int NV = 4;
  const QuadRow* row = &x;
  __asm__("" : "+r"(row));  // note: read anew for each panel, or g++ keeps what all turns read on the stack
  const Quads magnitudes[2] = {quad_at(row->magnitudes, k), quad_at(row->magnitudes, k + 4)};
  const Quads flips[2] = {quad_at(row->flips, k), quad_at(row->flips, k + 4)};
  for (int output = 0; output < kPanel; output += NV * kLanes) {
    Ints sum[NV];
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) {
      const int at = output + v * kLanes;
      Quads w[2];
      if (format == WeightFormat::int4) load_nibbles(codes + at * 4, &w[0], &w[1]);
      else w[0] = load_quads(codes + at * 4), w[1] = load_quads(codes + (kPanel + at) * 4);
      sum[v] = k == 0 ? _mm256_set1_epi32(x.negatives) : load(sums + at);
      for (int i = 0; i < 2; i++) sum[v] = dot_quads(sum[v], w[i], magnitudes[i], flips[i]);
    }
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) {
      const int at = output + v * kLanes;
      if (k + kCodesTurn < group_size(format)) store(sums + at, sum[v]);
      else store(acc + at, fma(to_floats(sum[v]), mul(load_scales(scales + at), broadcast(x_scale)), load(acc + at)));
    }
  }
}

// sums[r] (64) += the products of `count` of a group's k, from `from` on; codes as bytes (group / 4, 64, 4)
template <int MR> inline void add_codes(const QuadRow* x, const uint8_t* codes, int from, int count, int32_t (*sums)[kPanel]) {
  constexpr int NV = 2;
  for (int output = 0; output < kPanel; output += NV * kLanes) {
    Ints sum[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) sum[r][v] = load(sums[r] + output + v * kLanes);
    }
#pragma GCC unroll 1
    for (int k = from; k < from + count; k += 4) {
      const uint8_t* at = codes + k * kPanel + output * 4;
      Quads w[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) w[v] = load_quads(at + v * kLanes * 4);
#pragma GCC unroll 8
      for (int r = 0; r < MR; r++) {
        const Quads magnitudes = quad_at(x[r].magnitudes, k), flips = quad_at(x[r].flips, k);
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) sum[r][v] = dot_quads(sum[r][v], w[v], magnitudes, flips);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) store(sums[r] + output + v * kLanes, sum[r][v]);
    }
  }
}

// acc[r] += w_scale * x_scale * float(sums[r])
inline void add_scaled_rows(const int32_t (*sums)[kPanel], const bf16* scales, const QuantizedRows& x, int rows, float (*acc)[kPanel]) {
  Vec w_scales[kPanel / kLanes];
  for (int v = 0; v < kPanel / kLanes; v++) w_scales[v] = load_scales(scales + v * kLanes);
  for (int r = 0; r < rows; r++) {
    const Vec x_scale = broadcast(x.groups[r * x.groups_stride].scale);
#pragma GCC unroll 16
    for (int v = 0; v < kPanel / kLanes; v++) {
      float* to = acc[r] + v * kLanes;
      store(to, fma(to_floats(load(sums[r] + v * kLanes)), mul(w_scales[v], x_scale), load(to)));
    }
  }
}

// One group of one row, of all panels.
template <WeightFormat format> inline void add_group_of_row(const QuantizedPanel& a, int64_t g, int32_t (*sums)[kPanel], float (*acc)[kPanel]) {
  constexpr int G = group_size(format);
  const QuantizedRows x = a.x.at(0, g * G);
  QuadRow row;
  split_signs(x.values, G, &row);
#pragma GCC unroll 8
  for (int k = 0; k < G; k += kCodesTurn) {
    for (int panel = 0; panel < a.panels; panel++) {
      const uint8_t* group = a.w + (panel * a.groups + g) * group_bytes(format);
      const uint8_t* codes = group + kScaleBytes + k * kPanel / (format == WeightFormat::int8 ? 1 : 2);
      add_turn<format>(row, x.groups->scale, reinterpret_cast<const bf16*>(group), codes, k, sums[panel], acc[panel]);
    }
  }
}

// note: of its own, because it would keep three registers for its constants in the loops of products
__attribute__((noinline)) void unpack_group(const uint8_t* codes, uint8_t* bytes) { unpack_nibbles(codes, group_size(WeightFormat::int4), bytes); }

// One group of several rows, of all panels.
template <WeightFormat format> inline void add_group_of_rows(const QuantizedPanel& a, int64_t g, int32_t (*sums)[kPanel], float (*acc)[kPanel]) {
  constexpr int G = group_size(format);
  constexpr bool is_bytes = format == WeightFormat::int8;
  const QuantizedRows x = a.x.at(0, g * G);
  QuadRow rows[kRowBlock];
  for (int r = 0; r < a.rows; r++) {
    split_signs(x.values + r * x.stride, G, rows + r);
    for (int panel = 0; panel < a.panels; panel++) std::fill_n(sums[panel * a.rows + r], kPanel, rows[r].negatives);
  }
  const int turn = is_bytes && a.rows <= kStreamRows ? 16 : G;
  for (int k = 0; k < G; k += turn) {
    for (int panel = 0; panel < a.panels; panel++) {
      const uint8_t* group = a.w + (panel * a.groups + g) * group_bytes(format);
      const uint8_t* codes = group + kScaleBytes;
      const uint8_t* next = is_bytes ? codes + (k + turn) * kPanel : group + group_bytes(format);
      alignas(64) uint8_t bytes[32 * kPanel];
      if (!is_bytes) {
        unpack_group(codes, bytes);
        codes = bytes;
      }
      each_tile<kCodesTileRows>(a.rows, next, is_bytes ? turn * kPanel : group_bytes(format),
                                [&](auto MR, int r, const Lines& lines) {
                                  lines.ask();
                                  add_codes<MR>(rows + r, codes, k, turn, sums + panel * a.rows + r);
                                });
    }
  }
  for (int panel = 0; panel < a.panels; panel++) {
    const bf16* scales = reinterpret_cast<const bf16*>(a.w + (panel * a.groups + g) * group_bytes(format));
    add_scaled_rows(sums + panel * a.rows, scales, x, a.rows, acc + panel * a.rows);
  }
}

template <WeightFormat format> void matmul_quantized(const QuantizedPanel& a) {
  alignas(64) float acc[kRowBlock][kPanel];     // (panels, rows, 64)
  alignas(64) int32_t sums[kRowBlock][kPanel];  // of a group
  std::fill_n(acc[0], a.panels * a.rows * kPanel, 0.0f);
  for (int64_t g = 0; g < a.groups; g++) a.rows == 1 ? add_group_of_row<format>(a, g, sums, acc) : add_group_of_rows<format>(a, g, sums, acc);
  for (int panel = 0; panel < a.panels; panel++) {
    QuantizedPanel one = a;
    one.outputs = panel + 1 < a.panels ? kPanel : a.outputs;
    if (a.epilogue == Epilogue::relu2) one.hidden = a.hidden.at(0, panel * kPanel);
    else one.y = static_cast<float*>(a.y) + panel * kPanel;
    write_quantized_panel(one, acc + panel * a.rows);
  }
}
