// y = epilogue(x w^T)                            MODEL.md 1: the products of matmul.inl and quantized.inl, with the same sums,
// for 8 lanes, 16 registers and no instruction for pairs of bf16 or quads of int8
// x (rows, K), w up to kStreams packed panels -> y (rows, 64 for each panel)
// The panels take turns, because a core that reads several places reads faster than one that reads a single one; what one row reads
// is not asked for ahead, which such a core's own reading ahead does not survive. Sums wait in the first cache for their next turn.
// Bound: memory for one row, multiply-adds for many; measured shares in docs/bench.md.
constexpr int kStreams = 4;

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
  const char* lines = static_cast<const char*>(next);
  if (rows <= most) return with_rows<most, 2>(rows, [&](auto MR) { f(MR, 0, Lines{lines, bytes / 64}); });
  const int tiles = (rows + most - 1) / most;
  for (int tile = 0; tile < tiles; tile++) {
    const int first = rows * tile / tiles;
    const int64_t from = bytes * tile / tiles / 64, to = bytes * (tile + 1) / tiles / 64;
    with_rows<most, 2>(rows * (tile + 1) / tiles - first, [&](auto MR) { f(MR, first, Lines{lines + from * 64, to - from}); });
  }
}

// Elements of k in one turn. One row: no more than the core has under way; several: few enough for the second cache to be asked
// ahead; many: as far as a panel stays in the first.
constexpr int kLongTurn = 64, kShortTurn = 8;
template <class T> constexpr int turn(int rows) {
  if (rows > kStreamRows) return kLongTurn;
  if (std::is_same<T, float>::value) return rows < 4 ? 4 : 16;
  return rows <= kRegisterRows<T> ? kShortTurn : 32;
}

constexpr int kTurnStride = kLongTurn + 16;  // of x in a turn: as they lie, rows can share their sets of the cache

alignas(32) constexpr uint32_t kUpperHalves[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};

template <int MR, int NV> inline void float_steps(const float* x, const bf16* w, int k, Vec (&acc)[MR][NV]) {
  Pairs upper = load_pairs(reinterpret_cast<const bf16*>(kUpperHalves));
  __asm__ volatile("" : "+x"(upper));  // note: loaded here, or g++ 12 keeps it on the stack
  for (int i = 0; i < k; i += 2, w += 2 * kPanel) {
    Vec half[NV];
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) half[v] = low(load_pairs(w + v * kLanes * 2));
    add_product<MR, NV>([&](int r) { return broadcast(x[r * kTurnStride + i]); }, half, acc);
    __asm__("" : "+r"(w));  // note: read again, because both halves and the sums do not fit the registers
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) half[v] = _mm256_castsi256_ps(_mm256_and_si256(load_pairs(w + v * kLanes * 2), upper));
    add_product<MR, NV>([&](int r) { return broadcast(x[r * kTurnStride + i + 1]); }, half, acc);
  }
}

// note: written as assembly because sums, halves and a broadcast are 16 registers, of which g++ 12 keeps one or more on the stack
inline void float_steps(const float* x, const bf16* w, int k, Vec (&acc)[4][3]) {
#define NC_ADD_ROW(x, r) \
  "vbroadcastss " x ", %%ymm15\n\tvfmadd231ps %%ymm12, %%ymm15, %[s" r "0]\n\tvfmadd231ps %%ymm13, %%ymm15, %[s" r "1]\n\tvfmadd231ps %%ymm14, %%ymm15, %[s" r "2]\n\t"
  for (const float* end = x + k; x < end; x += 2, w += 2 * kPanel) {
    __asm__(
        "vmovdqu (%[w]), %%ymm12\n\tvmovdqu 32(%[w]), %%ymm13\n\tvmovdqu 64(%[w]), %%ymm14\n\t"
        "vpslld $16, %%ymm12, %%ymm12\n\tvpslld $16, %%ymm13, %%ymm13\n\tvpslld $16, %%ymm14, %%ymm14\n\t"
        NC_ADD_ROW("(%[x])", "0") NC_ADD_ROW("%c[row](%[x])", "1") NC_ADD_ROW("2*%c[row](%[x])", "2") NC_ADD_ROW("3*%c[row](%[x])", "3")
        "vmovdqu (%[w]), %%ymm12\n\tvmovdqu 32(%[w]), %%ymm13\n\tvmovdqu 64(%[w]), %%ymm14\n\t"
        "vpand %[upper], %%ymm12, %%ymm12\n\tvpand %[upper], %%ymm13, %%ymm13\n\tvpand %[upper], %%ymm14, %%ymm14\n\t"
        NC_ADD_ROW("4(%[x])", "0") NC_ADD_ROW("4+%c[row](%[x])", "1") NC_ADD_ROW("4+2*%c[row](%[x])", "2") NC_ADD_ROW("4+3*%c[row](%[x])", "3")
        : [s00] "+x"(acc[0][0]), [s01] "+x"(acc[0][1]), [s02] "+x"(acc[0][2]), [s10] "+x"(acc[1][0]), [s11] "+x"(acc[1][1]), [s12] "+x"(acc[1][2]),
          [s20] "+x"(acc[2][0]), [s21] "+x"(acc[2][1]), [s22] "+x"(acc[2][2]), [s30] "+x"(acc[3][0]), [s31] "+x"(acc[3][1]), [s32] "+x"(acc[3][2])
        : [x] "r"(x), [w] "r"(w), [upper] "m"(kUpperHalves), [row] "i"(kTurnStride * sizeof(float))
        : "ymm12", "ymm13", "ymm14", "ymm15", "memory");
  }
#undef NC_ADD_ROW
}

template <int MR, int NV> inline void float_steps(const float* x, const float* w, int k, Vec (&acc)[MR][NV]) {
#pragma GCC unroll 4
  for (int i = 0; i < k; i++, w += kPanel) tile_step<MR, NV>(x + i, kTurnStride, w, acc);
}

// acc[r][n] += sum over k of x[r][k] * w[n][k] for the NV vectors of outputs n from `output` on
template <class T, int MR, int NV> inline void add_outputs(const float* x, const T* w, int k, int output, float (*acc)[kPanel]) {
  Vec sums[MR][NV];
  load_rows<MR, NV>(acc, output, sums);
  float_steps(x, w + output * kStep<T>, k, sums);
  store_rows<MR, NV>(sums, output, acc);
}

// The same for all 64, NV vectors at a time.
template <class T, int MR, int NV> inline void add_panel(const float* x, const T* w, int k, const Lines& next, bool ask_by_block, float (*acc)[kPanel]) {
  constexpr int vectors = kPanel / kLanes, blocks = (vectors + NV - 1) / NV, last = vectors - (blocks - 1) * NV;
  if (!ask_by_block) next.ask();
  for (int block = 0; block < blocks; block++) {
    if (ask_by_block) next.ask(block, blocks);
    if (last == NV || block + 1 < blocks) add_outputs<T, MR, NV>(x, w, k, block * NV * kLanes, acc);
    else add_outputs<T, MR, last>(x, w, k, block * NV * kLanes, acc);
  }
}

// note: asking between the blocks of outputs spares a wait for all lines at once, where there are products to do meanwhile. In the short
// turns of few rows of bf16 it costs more than that, as do 12 sums, which otherwise hide the latency of a product better than 8.
template <class T, int MR> inline void add_float_products(const float* x, const T* w, int k, bool is_short, const Lines& next, float (*acc)[kPanel]) {
  constexpr bool is_float = std::is_same<T, float>::value;
  if constexpr (!is_float && MR > 2) {
    if (!is_short) return add_panel<T, MR, 3>(x, w, k, next, true, acc);
  }
  add_panel<T, MR, MR == 2 ? 4 : 2>(x, w, k, next, is_float ? MR > 3 : !is_short, acc);
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

// acc (panels, 1, 64) += the products of one row
template <class T> inline void add_row(const MatmulPanel<T>& a, float (*acc)[kPanel]) {
  for (int from = 0; from < a.k; from += turn<T>(1)) {
    const int k = std::min(turn<T>(1), a.k - from);
    for (int panel = 0; panel < a.panels; panel++) add_row_products(a.x + from, a.w + panel * panel_elements<T>(a.k) + from * kPanel, k, acc + panel);
  }
}

// acc (panels, rows, 64) += those of several. note: of its own, because beside it the loop of one row would keep its mask on the stack
template <class T> __attribute__((noinline)) void add_rows(const MatmulPanel<T>& a, float (*acc)[kPanel]) {
  alignas(64) float x[kRowBlock * kTurnStride];
  const int longest = turn<T>(a.rows);
  for (int from = 0; from < a.k; from += longest) {
    const int k = std::min(longest, a.k - from);
    for (int r = 0; r < a.rows; r++) to_floats(a.x + r * a.x_stride + from, k, x + r * kTurnStride);
    for (int panel = 0; panel < a.panels; panel++) {
      const T* w = a.w + panel * panel_elements<T>(a.k) + from * kPanel;
      each_tile<kRegisterRows<T>>(a.rows, w + k * kPanel, k * kPanel * static_cast<int64_t>(sizeof(T)), [&](auto MR, int r, const Lines& next) {
        add_float_products<T, MR>(x + r * kTurnStride, w, k, longest == kShortTurn, next, acc + panel * a.rows + r);
      });
    }
  }
}

template <class T> void matmul_panel(const MatmulPanel<T>& a) {
  alignas(64) float acc[kStreams * kRowBlock][kPanel];  // (panels, rows, 64)
  std::fill_n(acc[0], a.panels * a.rows * kPanel, 0.0f);
  a.rows == 1 ? add_row(a, acc) : add_rows(a, acc);
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
  static_assert(kStreams * kStreamRows <= kRowBlock, "the sums of all panels have a row each");
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
