// out = softmax(scale * q K^T) V over keys first..last       MODEL.md 1: attention(q, k, v), causal, window w(l)
// q (rows, D) T, pages of 64 keys: K (D, 64) T and V (64, D) T -> out (rows, D) T
// One call is up to 12 rows (queries and heads of a group) that share a kv head, in register tiles of kRegisterRows that read a page one after
// the other: its keys, then its values, are in the first cache for the second. Pages are visited in ascending order
// with an online softmax; every page starts at a multiple of 64, so a row's arithmetic depends on its position only.
// Bound: memory of the cache for one row, FMA throughput for six.

// How far ahead of its loads one row asks for keys and values: farther than a product, and into what it reads next, because a
// page of a head is a short stretch of memory.
constexpr int kPageAheadBytes = 16384;

constexpr int kAccWidth = 1024 + 16;  // floats from a row of sums to the next: not a page, so that rows do not share their sets of the cache

// scores[r][j] = q[r] . k[j] for all 64 keys of a page. next: what is read after them, when they come from memory
template <class T, int MR, bool streams = false>
inline void page_scores(const T* q, int64_t q_stride, const T* keys, int D, float (*scores)[kPage], const T* next = nullptr) {
  constexpr int NV = tile_vectors<T>(MR);
  const int middle = streams ? D - std::min(D, kPageAheadBytes / static_cast<int>(kPage * sizeof(T))) : D;
  for (int key = 0; key < kPage; key += NV * kLanes) {
    Vec acc[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) acc[r][v] = broadcast(0.0f);
    }
    const T* w = keys + key * kStep<T>;
    tile<T, MR, NV, streams ? Asks::all : Asks::nothing>(q, q_stride, w, kPage * kStep<T>, middle, acc, w + (D - middle) * kPage);
    if (streams) tile<T, MR, NV, Asks::all>(q + middle, q_stride, w + middle * kPage, kPage * kStep<T>, D - middle, acc, next + key * kStep<T>);
    store_rows<MR, NV>(acc, key, scores);
  }
}

// acc[r][d .. d + NV vectors) += sum over keys [from, to) of p[r][j] * v[j][d]; ahead: what to ask for meanwhile
template <class T, int MR, int NV, bool streams>
inline void add_values_at(const T (*p)[kPage], const T* values, int from, int to, int DV, int d, float (*acc_rows)[kAccWidth], const T* ahead) {
  Vec acc[MR][NV];
  load_rows<MR, NV>(acc_rows, d, acc);
  tile<T, MR, NV, streams ? Asks::all : Asks::nothing>(p[0] + from, kPage, values + (static_cast<int64_t>(from) * DV + d * kStep<T>), static_cast<int64_t>(DV) * kStep<T>, to - from, acc,
                           ahead + d * kStep<T>);
  store_rows<MR, NV>(acc, d, acc_rows);
}

template <class T, int MR, bool streams = false>
inline void add_values(const T (*p)[kPage], const T* values, int from, int to, int DV, float (*acc_rows)[kAccWidth], const T* ahead = nullptr) {
  constexpr int NV = tile_vectors<T>(MR);
  int d = 0;
  // note: one row leaves registers for all of a head of 128, whose values are then one stream
  if constexpr (MR == 1 && kLanes == 16) {
    for (; d + 2 * NV * kLanes <= DV; d += 2 * NV * kLanes) add_values_at<T, MR, 2 * NV, streams>(p, values, from, to, DV, d, acc_rows, ahead);
  }
  for (; d + NV * kLanes <= DV; d += NV * kLanes) add_values_at<T, MR, NV, streams>(p, values, from, to, DV, d, acc_rows, ahead);
  for (; d < DV; d += kLanes) add_values_at<T, MR, 1, streams>(p, values, from, to, DV, d, acc_rows, ahead);
}

// The values of one row, and meanwhile those further on and the beginning of what is read next.
template <class T> inline void stream_values(const T (*p)[kPage], const T* values, int from, int to, int DV, float (*acc)[kAccWidth], const T* next) {
  const int ahead = kPageAheadBytes / static_cast<int>(DV * sizeof(T)) / 2 * 2, middle = std::max(from, to - ahead);
  add_values<T, 1, true>(p, values, from, middle, DV, acc, values + (from + ahead) * DV);
  add_values<T, 1, true>(p, values, middle, to, DV, acc, next);
}

constexpr float kNothing = -1e30f;  // below every score

// A row's softmax so far: what is taken from its scores, and the sum of exponentials by lane.
struct SoftmaxRow {
  float most = kNothing;
  float sum[16] = {0};
};

// How far a score may exceed `most` before everything is scaled anew. note: exponentials of up to e^8 lose nothing, and scaling
// is a branch that the processor guesses wrong as long as it is taken now and then
constexpr float kSlack = 8;

// Turns the scores of keys [lo, hi) into exponentials p (0 elsewhere) and updates the row.
template <class T>
inline void softmax_page(const float* scores, int lo, int hi, float scale, int DV, SoftmaxRow* row, float* acc, T* p) {
  constexpr int NV = kPage / kLanes, NS = 16 / kLanes;
  Vec s[NV], sum[NS];
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) s[v] = mul(load(scores + v * kLanes), broadcast(scale));
  if (lo > 0 || hi < kPage) {
#pragma GCC unroll 16
    for (int v = 0; v < NV; v++) s[v] = keep_lanes(s[v], lo - v * kLanes, hi - v * kLanes, -INFINITY);
  }
  Vec largest = s[0];
#pragma GCC unroll 16
  for (int v = 1; v < NV; v++) largest = max(largest, s[v]);
  const float most = largest_lane(largest);
#pragma GCC unroll 4
  for (int i = 0; i < NS; i++) sum[i] = load(row->sum + i * kLanes);
  if (most > row->most + kSlack) {
    if (row->most > kNothing) {
      const Vec alpha = exp(broadcast(row->most - most));
      for (int d = 0; d < DV; d += kLanes) store(acc + d, mul(load(acc + d), alpha));
#pragma GCC unroll 4
      for (int i = 0; i < NS; i++) sum[i] = mul(sum[i], alpha);
    }
    row->most = most;
  }
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) {
    s[v] = exp(sub(s[v], broadcast(row->most)));
    sum[v % NS] = add(sum[v % NS], s[v]);
    store_normal(p + v * kLanes, s[v]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < NS; i++) store(row->sum + i * kLanes, sum[i]);
}

// out (D) = acc over the sum of exponentials
template <class T> inline void finish_attention(const SoftmaxRow& softmax, float* acc, int D, T* out) {
  Vec sums = load(softmax.sum);
  for (int i = kLanes; i < 16; i += kLanes) sums = add(sums, load(softmax.sum + i));
  const float sum = sum_lanes(sums);
  const Vec scale = broadcast(1.0f / sum);
  for (int d = 0; d < value_dim(D); d += kLanes) store(acc + d, mul(load(acc + d), scale));
  store_all(acc, D, out);
}

#if NC_LEVEL == 2
// One row. The keys of two pages and the values of the pages before take turns, as panels do (streams.inl): a page's values, and
// meanwhile half of what the scores of the next two pages need.
constexpr int kTurns = 16;  // of a page

template <class T> void attention_row(const AttentionTile<T>& a) {
  constexpr int NV = kPage / kLanes;
  const int D = a.head_dim, DV = value_dim(D);
  alignas(64) float scores[4][kPage];
  alignas(64) T p[1][kPage];
  alignas(64) float acc[1][kAccWidth];  // (1, DV)
  alignas(64) SoftmaxRow softmax;
  std::fill_n(acc[0], DV, 0.0f);
  const int64_t first = a.seen->first / kPage, last = a.seen->last / kPage;
  const auto part = [&](int64_t page, int64_t offset) { return static_cast<const T*>(a.pages[page]) + offset; };
  const auto turn = [](int count, int i) { return count * i / kTurns / kStep<T> * kStep<T>; };

  // scores of `page` and the next += the products of elements from..to of q and k
  const auto add_scores = [&](int64_t page, int from, int to) {
    for (int64_t end = std::min(page + 1, last); page <= end; page++) {
      Vec sums[1][NV];
      for (int v = 0; v < NV; v++) sums[0][v] = from == 0 ? broadcast(0.0f) : load(scores[page % 4] + v * kLanes);
      tile<T, 1, NV>(a.q + from, 0, part(page, a.k_offset) + from * kPage, kPage * kStep<T>, to - from, sums);
      store_rows<1, NV>(sums, 0, scores + page % 4);
    }
  };

  for (int i = 0; i < kTurns; i++) add_scores(first, turn(D, i), turn(D, i + 1));
  for (int64_t page = first; page <= last; page++) {
    int lo = static_cast<int>(std::max<int64_t>(a.seen->first - page * kPage, 0));
    int hi = static_cast<int>(std::min<int64_t>(a.seen->last + 1 - page * kPage, kPage));
    softmax_page<T>(scores[page % 4], lo, hi, a.scale, DV, &softmax, acc[0], p[0]);
    lo = lo / kStep<T> * kStep<T>;  // note: reads exactly its own keys, so slots that hold nothing yet can hold anything
    hi = round_up(hi, kStep<T>);
    const int64_t is_second = (page - first) % 2;
    const int middle = D / 2 / kStep<T> * kStep<T>, from = is_second ? middle : 0, count = is_second ? D - middle : middle;
    for (int i = 0; i < kTurns; i++) {
      add_values<T, 1>(p, part(page, a.v_offset), lo + turn(hi - lo, i), lo + turn(hi - lo, i + 1), DV, acc);
      add_scores(page + 2 - is_second, from + turn(count, i), from + turn(count, i + 1));
    }
  }
  finish_attention(softmax, acc[0], D, a.out);
}
#else
// One row. note: the next page's scores come before this page's values, so that its softmax ends while they are read.
template <class T> void attention_row(const AttentionTile<T>& a) {
  const int D = a.head_dim, DV = value_dim(D);
  alignas(64) float scores[2][kPage];
  alignas(64) T p[1][kPage];
  alignas(64) float acc[1][kAccWidth];  // (1, DV)
  alignas(64) SoftmaxRow softmax;
  std::fill_n(acc[0], DV, 0.0f);
  const int64_t first = a.seen->first / kPage, last = a.seen->last / kPage;
  const auto part = [&](int64_t page, int64_t offset) { return page <= last ? static_cast<const T*>(a.pages[page]) + offset : static_cast<const T*>(a.next); };

  page_scores<T, 1, true>(a.q, 0, part(first, a.k_offset), D, scores + first % 2, first < last ? part(first + 1, a.k_offset) : part(first, a.v_offset));
  for (int64_t page = first; page <= last; page++) {
    const int lo = static_cast<int>(std::max<int64_t>(a.seen->first - page * kPage, 0));
    const int hi = static_cast<int>(std::min<int64_t>(a.seen->last + 1 - page * kPage, kPage));
    softmax_page<T>(scores[page % 2], lo, hi, a.scale, DV, &softmax, acc[0], p[0]);
    if (page < last) page_scores<T, 1, true>(a.q, 0, part(page + 1, a.k_offset), D, scores + (page + 1) % 2, part(page, a.v_offset));
    // note: an edge reads exactly its own keys, so slots that hold nothing yet can hold anything
    stream_values(p, part(page, a.v_offset), lo / kStep<T> * kStep<T>, round_up(hi, kStep<T>), DV, acc, page + 1 < last ? part(page + 2, a.k_offset) : part(page + 1, a.v_offset));
  }
  finish_attention(softmax, acc[0], D, a.out);
}
#endif

// acc[r] += sum over the keys [lo[r], hi[r]) of p[r][j] * v[j], up to kRegisterRows rows: the keys that all of them see together.
// note: at the edges each row reads exactly its own keys, so slots that hold nothing yet can hold anything
template <class T> inline void add_seen_values(const T (*p)[kPage], const T* values, const int* lo, const int* hi, int rows, int DV, float (*acc)[kAccWidth]) {
  const int from = *std::max_element(lo, lo + rows), to = std::max(from, *std::min_element(hi, hi + rows));
  for (int r = 0; r < rows; r++) {
    if (lo[r] < from) add_values<T, 1>(p + r, values, lo[r], std::min(from, hi[r]), DV, acc + r);
  }
  if (from < to) with_rows<kRegisterRows<T>>(rows, [&](auto MR) { add_values<T, MR>(p, values, from, to, DV, acc); });
  for (int r = 0; r < rows; r++) {
    if (to < hi[r]) add_values<T, 1>(p + r, values, std::max(to, lo[r]), hi[r], DV, acc + r);
  }
}

template <class T> void attention_tile(const AttentionTile<T>& a) {
  if (a.rows == 1) return attention_row(a);
  const int D = a.head_dim, DV = value_dim(D), rows = a.rows;
  alignas(64) float scores[kAttentionRows][kPage];
  alignas(64) T p[kAttentionRows][kPage];
  alignas(64) float acc[kAttentionRows][kAccWidth];  // (rows, DV)
  alignas(64) SoftmaxRow softmax[kAttentionRows];
  for (int r = 0; r < rows; r++) std::fill_n(acc[r], DV, 0.0f);

  const int64_t last_page = a.seen[rows - 1].last / kPage;
  for (int64_t page = a.seen[0].first / kPage; page <= last_page; page++) {
    const int64_t start = page * kPage;
    int r0 = 0, r1 = rows;  // the rows that see a key of this page
    while (r0 < rows && a.seen[r0].last < start) r0++;
    while (r1 > r0 && a.seen[r1 - 1].first >= start + kPage) r1--;
    if (r0 == r1) continue;
    const T* base = static_cast<const T*>(a.pages[page]);
    const T* keys = base + a.k_offset;
    const T* values = base + a.v_offset;

    for (int r = r0; r < r1; r += kRegisterRows<T>) {
      with_rows<kRegisterRows<T>>(std::min(kRegisterRows<T>, r1 - r), [&](auto MR) { page_scores<T, MR>(a.q + r * a.q_stride, a.q_stride, keys, D, scores + r); });
    }
    int lo[kAttentionRows], hi[kAttentionRows];  // the keys of the page that each row sees, in whole steps
    for (int r = r0; r < r1; r++) {
      lo[r] = static_cast<int>(std::max<int64_t>(a.seen[r].first - start, 0));
      hi[r] = static_cast<int>(std::min<int64_t>(a.seen[r].last + 1 - start, kPage));
      softmax_page<T>(scores[r], lo[r], hi[r], a.scale, DV, &softmax[r], acc[r], p[r]);
      lo[r] = lo[r] / kStep<T> * kStep<T>;
      hi[r] = round_up(hi[r], kStep<T>);
    }
    for (int r = r0; r < r1; r += kRegisterRows<T>) add_seen_values<T>(p + r, values, lo + r, hi + r, std::min(kRegisterRows<T>, r1 - r), DV, acc + r);
  }

  for (int r = 0; r < rows; r++) finish_attention(softmax[r], acc[r], D, a.out + r * a.out_stride);
}

inline void put_key(const float* k, int D, int slot, float* page) {
  for (int d = 0; d < D; d++) page[d * kPage + slot] = k[d];
}

inline void put_key(const float* k, int D, int slot, bf16* page) {
  bf16 rounded[1024];
  store_all(k, D, rounded);
  for (int d = 0; d < D; d += 2) std::memcpy(page + (d / 2 * kPage + slot) * 2, rounded + d, 4);
}

inline void put_value(const float* v, int D, int DV, int slot, float* page) {
  float* row = page + static_cast<int64_t>(slot) * DV;
  std::copy_n(v, D, row);
  std::fill(row + D, row + DV, 0.0f);
}

inline void put_value(const float* v, int D, int DV, int slot, bf16* page) {
  bf16 rounded[1024];
  store_all(v, D, rounded);
  std::fill(rounded + D, rounded + DV, bf16{});
  bf16* row = page + static_cast<int64_t>(slot / 2) * DV * 2;
  for (int d = 0; d < DV; d++) {
    // note: the first of a pair clears the second, which is read with weight 0 and must be finite
    uint32_t pair = 0;
    if (slot % 2 == 1) std::memcpy(&pair, row + 2 * d, 2);
    pair |= static_cast<uint32_t>(rounded[d].bits) << slot % 2 * 16;
    std::memcpy(row + 2 * d, &pair, 4);
  }
}

// keys (D / step, 64, step), values (64 / step, DV, step)
template <class T> void append_kv(const float* k, const float* v, int D, int slot, T* k_page, T* v_page) {
  put_key(k, D, slot, k_page);
  put_value(v, D, value_dim(D), slot, v_page);
}
