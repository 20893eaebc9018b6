// y = epilogue(x w^T) with weights of 8 or 4 bits           MODEL.md 1: the same products as matmul.inl
// x (rows, K) int8 in groups with a scale each, w one packed panel (K / G, 64 scales and 64 G codes) -> y (rows, 64)
// One call is one panel. Groups outside, rows inside: a group's codes are read once, from memory, for all rows. Few rows wait for
// the memory and take whole groups as they come; more compute.
// Bound: memory for few rows, integer products for many; measured shares in docs/bench.md.
// AVX2 has the products of streams.inl instead, and of these only what is around them.

// G values of a row to codes.
template <int G> inline void quantize_group(const float* x, int8_t* values, ActivationGroup* group) {
  constexpr int NV = G / kLanes;
  const Vec zero = broadcast(0.0f);
  Vec v[NV], largest = zero;
#pragma GCC unroll 16
  for (int i = 0; i < NV; i++) {
    v[i] = load(x + i * kLanes);
    largest = max(largest, max(v[i], sub(zero, v[i])));
  }
  const float most = largest_lane(largest);
  const Vec per_unit = broadcast(most > 0 ? std::min(127.0f / most, std::numeric_limits<float>::max()) : 0.0f);
  Vec sum = zero;
#pragma GCC unroll 16
  for (int i = 0; i < NV; i++) {
    const Vec rounded = round_to_int(mul(v[i], per_unit));
    store(values + i * kLanes, rounded);
    sum = add(sum, rounded);
  }
  const float total = sum_lanes(sum);  // a NaN when an element is not finite: then so is what the group adds to a product
  *group = {total == total ? most / 127.0f : total, total == total ? -128 * static_cast<int32_t>(total) : 0};
}

template <int G> inline void quantize_groups(const float* x, int k, const QuantizedRows& row) {
  const int whole = static_cast<int>(std::min<int64_t>(k, row.stride)) / G;
  int8_t* values = row.values;
  ActivationGroup* groups = row.groups;
  for (int g = 0; g < whole; g++) quantize_group<G>(x + g * G, values + g * G, groups + g);
  for (int64_t g = whole; g < row.stride / G; g++) {
    alignas(64) float filled[G] = {0};
    std::copy_n(x + g * G, std::max<int64_t>(0, k - g * G), filled);
    quantize_group<G>(filled, values + g * G, groups + g);
  }
}

void quantize(const float* x, int k, const QuantizedRows& row) {
  row.group == 64 ? quantize_groups<64>(x, k, row) : quantize_groups<32>(x, k, row);
}

constexpr int kScaleBytes = kPanel * sizeof(bf16);

// Half bytes (group / 8, 64, 4) -> bytes (group / 4, 64, 4)
inline void unpack_nibbles(const uint8_t* codes, int group, uint8_t* bytes) {
  for (int k = 0; k < group; k += 8) {
    if (NC_LEVEL != 2) prefetch<kPanel * 4>(codes + k / 2 * kPanel + kAheadBytes);
    for (int i = 0; i < kPanel * 4; i += kLanes * 4) {
      Quads first, second;
      load_nibbles(codes + k / 2 * kPanel + i, &first, &second);
      store_quads(bytes + k * kPanel + i, first);
      store_quads(bytes + (k + 4) * kPanel + i, second);
    }
  }
}

inline void write_quantized_panel(const QuantizedPanel& a, float (*acc)[kPanel]) {
  for (int r = 0; r < a.rows; r++) {
    if (a.epilogue != Epilogue::relu2) {
      write_row(a.epilogue, a.cap, acc[r], a.outputs, static_cast<float*>(a.y) + r * a.y_stride);
      continue;
    }
    alignas(64) float out[kPanel];
    finish_row(a.epilogue, 0, acc[r], acc[r], out);
    QuantizedRows row = a.hidden.at(r, 0);
    row.stride = kPanel;
    quantize(out, a.outputs, row);
  }
}

#if NC_LEVEL != 2
constexpr int kInt8AheadBytes = 6144;  // note: measured; bytes of int8 pass faster than pairs of bf16 and slower than half bytes
constexpr int kInt8HalfAheadBytes = kHalves ? 3 * static_cast<int>(group_bytes(WeightFormat::int8)) : kInt8AheadBytes;  // where two tiles ask for a half each

// Vectors of sums per tile: as many as the registers hold beside MR rows of them.
constexpr int quad_vectors(int MR) {
#if NC_LEVEL == 3
  return (void)MR, 4;
#elif defined(NC_INT8_DOT)
  return MR == 1 ? 8 : 4;
#elif NC_LEVEL == 1
  return MR == 1 ? 8 : 2;
#else
  return MR == 1 ? 4 : 1;
#endif
}

// And where they also hold the sums of the groups before.
constexpr int block_vectors(int MR) { return MR > 3 ? std::min(2, quad_vectors(MR)) : quad_vectors(MR); }

// acc += w_scale * x_scale * float(sum)
template <int MR, int NV>
inline void add_scaled(const Ints (&sum)[MR][NV], const bf16* scales, const ActivationGroup* x_groups, int64_t x_groups_stride, Vec (&acc)[MR][NV]) {
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) {
    const Vec w_scale = load_scales(scales + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) acc[r][v] = fma(to_floats(sum[r][v]), mul(w_scale, broadcast(x_groups[r * x_groups_stride].scale)), acc[r][v]);
  }
}

template <int MR, int NV>
inline void add_scaled(const Ints (&sum)[MR][NV], const bf16* scales, const ActivationGroup* x_groups, int64_t x_groups_stride, float (*acc)[kPanel], int output) {
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) {
    const Vec w_scale = load_scales(scales + output + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      float* to = acc[r] + output + v * kLanes;
      store(to, fma(to_floats(sum[r][v]), mul(w_scale, broadcast(x_groups[r * x_groups_stride].scale)), load(to)));
    }
  }
}

template <int MR, int NV>
inline void start_sums(const ActivationGroup* x_groups, int64_t x_groups_stride, Ints (&sum)[MR][NV]) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) sum[r][v] = start_quads(x_groups[r * x_groups_stride].offset);
  }
}

template <int MR, int NV>
inline void quad_step(const int8_t* x, int64_t x_stride, const Quads (&w)[NV], Ints (&sum)[MR][NV]) {
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    const Quads xv = broadcast_quad(x + r * x_stride);
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) sum[r][v] = dot_quads(sum[r][v], w[v], xv);
  }
}

// note: with the tiles of few and of many rows in one function g++ 12 puts sums on the stack, and in a function of one tile of a
// block it copies them to and fro
#if defined(__GNUC__)
#define NC_INLINE __attribute__((always_inline)) inline
#define NC_NOINLINE __attribute__((noinline))
#else
#define NC_INLINE inline
#define NC_NOINLINE
#endif

// One group of MR rows, its codes as bytes (group / 4, 64, 4). ahead: bytes from what is read to what is asked for
template <int MR, Asks asks>
inline void add_group(const QuantizedRows& x, const bf16* scales, const uint8_t* codes, float (*acc)[kPanel], int64_t ahead = 0) {
  constexpr int NV = quad_vectors(MR);
  const int64_t x_groups_stride = x.groups_stride;
  for (int output = 0; output < kPanel; output += NV * kLanes) {
    Ints sum[MR][NV];
    start_sums<MR, NV>(x.groups, x_groups_stride, sum);
    for (int k = 0; k < x.group; k += 4) {
      const uint8_t* at = codes + k * kPanel + output * 4;
      ask<NV, asks>(at + ahead);
      Quads w[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) w[v] = load_quads(at + v * kLanes * 4);
      quad_step<MR, NV>(x.values + k, x.stride, w, sum);
    }
    add_scaled<MR, NV>(sum, scales, x.groups, x_groups_stride, acc, output);
  }
}

// Groups that follow each other: scales (64), and codes as bytes (group / 4, 64, 4), each so many bytes after the one before.
struct GroupBlock {
  const uint8_t* scales;
  const uint8_t* codes;
  int64_t scales_stride, codes_stride;
  int count;
};

// All groups of a block. The sums of the groups before stay in registers: storing a vector takes the place of two products.
template <int MR, Asks asks>
NC_INLINE void add_block(const QuantizedRows& x, const GroupBlock& w, float (*acc_rows)[kPanel]) {
  constexpr int NV = block_vectors(MR);
  for (int output = 0; output < kPanel; output += NV * kLanes) {
    Vec acc[MR][NV];
    load_rows<MR, NV>(acc_rows, output, acc);
    for (int g = 0; g < w.count; g++) {
      const ActivationGroup* x_groups = x.groups + g;
      const uint8_t* at = w.codes + g * w.codes_stride + output * 4;
      Ints sum[MR][NV];
      start_sums<MR, NV>(x_groups, x.groups_stride, sum);
      for (int k = 0; k < x.group; k += 4, at += kPanel * 4) {
        ask<NV, asks>(at + kInt8AheadBytes);
        Quads wv[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) wv[v] = load_quads(at + v * kLanes * 4);
        quad_step<MR, NV>(x.values + g * x.group + k, x.stride, wv, sum);
      }
      add_scaled<MR, NV>(sum, reinterpret_cast<const bf16*>(w.scales + g * w.scales_stride) + output, x_groups, x.groups_stride, acc);
    }
    store_rows<MR, NV>(acc, output, acc_rows);
  }
}

// One group of one row, its codes as half bytes (group / 8, 64, 4).
inline void add_nibbles(const QuantizedRows& x, const bf16* scales, const uint8_t* codes, float (*acc)[kPanel]) {
  constexpr int NV = quad_vectors(1);
  prefetch<kScaleBytes>(reinterpret_cast<const uint8_t*>(scales) + kAheadBytes);  // note: in int8 these lines come by themselves
  for (int output = 0; output < kPanel; output += NV * kLanes) {
    Ints sum[1][NV];
    start_sums<1, NV>(x.groups, 0, sum);
    for (int k = 0; k < x.group; k += 8) {
      const uint8_t* at = codes + k / 2 * kPanel + output * 4;
      prefetch<NV * kLanes * 4>(at + kAheadBytes);
      Quads first[NV], second[NV];
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) load_nibbles(at + v * kLanes * 4, &first[v], &second[v]);
      quad_step<1, NV>(x.values + k, 0, first, sum);
      quad_step<1, NV>(x.values + k + 4, 0, second, sum);
    }
    add_scaled<1, NV>(sum, scales, x.groups, 0, acc, output);
  }
}

// Asks for the lines of those results that are the share [from, to) of `all`. note: results of many rows lie in no cache near, and a
// product lasts longer than their way.
inline void ask_for_results(const QuantizedPanel& a, int64_t from, int64_t to, int64_t all) {
  for (int64_t r = from * a.rows / all; r < to * a.rows / all; r++) prefetch<kPanel * sizeof(float)>(static_cast<const float*>(a.y) + r * a.y_stride);
}

// Rows from which the sums of a block of groups stay in registers. note: gains nothing without vpdpbusd, and takes 60 KB of code
#if NC_LEVEL == 3 && defined(NC_INT8_DOT)
#define NC_VNNI
constexpr int kFewRows = 2 * kTileRows;
#else
constexpr int kFewRows = kRowBlock;
#endif
constexpr int kBlockGroups = 2;

template <WeightFormat format> NC_NOINLINE void few_rows(const QuantizedPanel& a) {
  constexpr bool in_memory = format == WeightFormat::int8;  // and not unpacked, asked for meanwhile
  alignas(64) float acc[kRowBlock][kPanel];
  std::fill_n(acc[0], a.rows * kPanel, 0.0f);
  const int first = first_rows(a.rows), second = std::min(first, a.rows - first);
  for (int64_t g = 0; g < a.groups; g++) {
    const uint8_t* group = a.w + g * group_bytes(format);
    const bf16* scales = reinterpret_cast<const bf16*>(group);
    const uint8_t* codes = group + kScaleBytes;
    const QuantizedRows x = a.x.at(0, g * a.x.group);
    alignas(64) uint8_t bytes[32 * kPanel];
    if (format == WeightFormat::int4) {
      if (a.rows == 1) {
        add_nibbles(x, scales, codes, acc);
        continue;
      }
      unpack_nibbles(codes, a.x.group, bytes);
      codes = bytes;
    }
    if (second == 0) {
      with_rows(first, [&](auto MR) { add_group<MR, in_memory ? Asks::all : Asks::nothing>(x, scales, codes, acc, kInt8AheadBytes); });
      continue;
    }
    with_rows(first, [&](auto MR) { add_group<MR, in_memory ? kFirstAsks : Asks::nothing>(x, scales, codes, acc, kInt8HalfAheadBytes); });
    with_rows(second, [&](auto MR) { add_group<MR, in_memory ? kSecondAsks : Asks::nothing>(x.at(first, 0), scales, codes, acc + first, kInt8HalfAheadBytes + kHalfStep); });
    for (int row = first + second; row < a.rows; row += kTileRows) {
      with_rows(std::min(kTileRows, a.rows - row), [&](auto MR) { add_group<MR, Asks::nothing>(x.at(row, 0), scales, codes, acc + row); });
    }
  }
  write_quantized_panel(a, acc);
}

#ifdef NC_VNNI
// Several rows of int4: one vector of outputs at a time goes through a block of groups, for all rows, so that neither its codes as
// bytes nor the sums of the groups before are stored. note: a block and what is asked for, one block ahead, fit the first cache
constexpr int kNibbleRows = 4, kNibbleGroups = 10;  // note: measured; fewer rows wait for the memory, which is fastest when read as it lies

template <int MR> NC_INLINE void add_nibble_block(const QuantizedRows& x, const uint8_t* block, int groups, float (*acc_rows)[kPanel]) {
  constexpr int64_t stride = group_bytes(WeightFormat::int4), ahead = kNibbleGroups * stride;
  for (int output = 0; output < kPanel; output += kLanes) {
    Vec acc[MR];
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++) acc[r] = load(acc_rows[r] + output);
    for (int g = 0; g < groups; g++) {
      const uint8_t* group = block + g * stride;
      const int8_t* values = x.values + g * x.group;
      const ActivationGroup* x_groups = x.groups + g;
      Ints sum[MR];
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) sum[r] = start_quads(x_groups[r * x.groups_stride].offset);
      prefetch<1>(group + output * 2 + ahead);
      for (int k = 0; k < group_size(WeightFormat::int4); k += 8) {
        const uint8_t* at = group + kScaleBytes + k / 2 * kPanel + output * 4;
        prefetch<1>(at + ahead);
        Quads first, second;
        load_nibbles(at, &first, &second);
#pragma GCC unroll 16
        for (int r = 0; r < MR; r++) sum[r] = dot_quads(sum[r], first, broadcast_quad(values + r * x.stride + k));
#pragma GCC unroll 16
        for (int r = 0; r < MR; r++) sum[r] = dot_quads(sum[r], second, broadcast_quad(values + r * x.stride + k + 4));
      }
      const Vec w_scale = load_scales(reinterpret_cast<const bf16*>(group) + output);
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) acc[r] = fma(to_floats(sum[r]), mul(w_scale, broadcast(x_groups[r * x.groups_stride].scale)), acc[r]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++) store(acc_rows[r] + output, acc[r]);
  }
}

NC_NOINLINE void few_nibble_rows(const QuantizedPanel& a) {
  alignas(64) float acc[kFewRows][kPanel];
  std::fill_n(acc[0], a.rows * kPanel, 0.0f);
  for (int64_t g = 0; g < a.groups; g += kNibbleGroups) {
    const int groups = static_cast<int>(std::min<int64_t>(kNibbleGroups, a.groups - g));
    with_rows<kFewRows>(a.rows, [&](auto MR) { add_nibble_block<MR>(a.x.at(0, g * a.x.group), a.w + g * group_bytes(WeightFormat::int4), groups, acc); });
  }
  write_quantized_panel(a, acc);
}
#endif

template <WeightFormat format> NC_NOINLINE void many_rows(const QuantizedPanel& a) {
  alignas(64) float acc[kRowBlock][kPanel];
  std::fill_n(acc[0], a.rows * kPanel, 0.0f);
  constexpr int64_t stride = group_bytes(format);
  for (int64_t g = 0; g < a.groups; g += kBlockGroups) {
    const uint8_t* block = a.w + g * stride;
    GroupBlock w{block, block + kScaleBytes, stride, stride, static_cast<int>(std::min<int64_t>(kBlockGroups, a.groups - g))};
    if (a.epilogue != Epilogue::relu2) ask_for_results(a, g, std::min(a.groups, g + kBlockGroups), a.groups);
    const QuantizedRows x = a.x.at(0, g * a.x.group);
    alignas(64) uint8_t bytes[kBlockGroups][32 * kPanel];
    if (format == WeightFormat::int4) {
      for (int i = 0; i < w.count; i++) unpack_nibbles(w.codes + i * stride, x.group, bytes[i]);
      w.codes = bytes[0];
      w.codes_stride = sizeof bytes[0];
    }
    with_rows(std::min(kTileRows, a.rows), [&](auto MR) { add_block<MR, format == WeightFormat::int8 ? Asks::all : Asks::nothing>(x, w, acc); });
    for (int row = kTileRows; row < a.rows; row += kTileRows) {
      with_rows(std::min(kTileRows, a.rows - row), [&](auto MR) { add_block<MR, Asks::nothing>(x.at(row, 0), w, acc + row); });
    }
  }
  write_quantized_panel(a, acc);
}

template <WeightFormat format> void matmul_quantized(const QuantizedPanel& a) {
  if constexpr (kFewRows < kRowBlock) {
    if (a.rows > kFewRows) return many_rows<format>(a);
  }
#ifdef NC_VNNI
  if (format == WeightFormat::int4 && a.rows >= kNibbleRows) return few_nibble_rows(a);
#endif
  few_rows<format>(a);
}

#undef NC_INLINE
#undef NC_NOINLINE
#undef NC_VNNI
#endif
