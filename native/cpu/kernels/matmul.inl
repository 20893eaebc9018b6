// y = epilogue(x w^T)                            MODEL.md 1: c_q, c_k, c_v, c_proj, mlp.c_fc, mlp.c_proj, lm_head
// x (rows, K) T, w one packed panel (K, 64) T -> y (rows, 64) float or T
// One call is one panel; the thread pool divides panels and blocks of rows.
// Bound: memory for one row, FMA throughput for many; measured shares in docs/bench.md.

inline Vec finish(Epilogue epilogue, float cap, Vec v, const float* y) {
  switch (epilogue) {
    case Epilogue::add: return add(load(y), v);
    case Epilogue::relu2: { const Vec positive = max(broadcast(0.0f), v); return mul(positive, positive); }  // note: a NaN stays one
    case Epilogue::softcap: return mul(broadcast(cap), tanh(div(v, broadcast(cap))));
    default: return v;
  }
}

// y (64) = epilogue(products)
template <class Y> inline void finish_row(Epilogue epilogue, float cap, const float* products, const float* before, Y* y) {
#pragma GCC unroll 4
  for (int n = 0; n < kPanel; n += kLanes) store(y + n, finish(epilogue, cap, load(products + n), before + n));
}

// Writes a row of float32 results, of which the first `outputs` exist.
inline void write_row(Epilogue epilogue, float cap, const float* products, int outputs, float* y) {
  if (outputs == kPanel) return finish_row(epilogue, cap, products, y, y);
  alignas(64) float all[kPanel] = {0};
  std::copy_n(y, outputs, all);
  finish_row(epilogue, cap, products, all, all);
  std::copy_n(all, outputs, y);
}

// The same rounded to T, for relu2.
template <class T> inline void write_rounded_row(const float* products, int outputs, T* y) {
  if (outputs == kPanel) return finish_row(Epilogue::relu2, 0, products, products, y);
  T all[kPanel];
  finish_row(Epilogue::relu2, 0, products, products, all);
  std::copy_n(all, outputs, y);
}

#if NC_LEVEL != 2
constexpr int kStreams = 1;

// acc[r][n] += sum over [from, to) of x[r][k] * w[n][k]. ahead: bytes from what is read to what is asked for
template <class T, int MR, Asks asks>
inline void add_products(const MatmulPanel<T>& a, int row, int from, int to, float (*acc)[kPanel], int64_t ahead = 0) {
  constexpr int NV = tile_vectors<T>(MR);
  for (int output = 0; output < kPanel; output += NV * kLanes) {
    Vec sums[MR][NV];
    load_rows<MR, NV>(acc + row, output, sums);
    const T* w = a.w + from * kPanel + output * kStep<T>;
    tile<T, MR, NV, asks>(a.x + row * a.x_stride + from, a.x_stride, w, kPanel * kStep<T>, to - from, sums, w + ahead / static_cast<int64_t>(sizeof(T)));
    store_rows<MR, NV>(sums, output, acc + row);
  }
}

// Elements of k that all rows go through before the next: 16 KB of a panel, which stay in the first cache meanwhile.
constexpr int kBlockBytes = 16384;
template <class T> constexpr int kBlock = kBlockBytes / (kPanel * static_cast<int>(sizeof(T)));

template <class T> void matmul_panel(const MatmulPanel<T>& a) {
  alignas(64) float acc[kRowBlock][kPanel];
  std::fill_n(acc[0], a.rows * kPanel, 0.0f);
  const int first = first_rows(a.rows), second = std::min(first, a.rows - first);
  const int block = second == 0 ? a.k : kBlock<T>;
  for (int from = 0; from < a.k; from += block) {
    const int to = std::min(a.k, from + block);
    if (a.rows == 1 && a.ahead_bytes == 0) add_products<T, 1, Asks::nothing>(a, 0, from, to, acc);
    else if (second == 0) with_rows(first, [&](auto MR) { add_products<T, MR, Asks::all>(a, 0, from, to, acc, MR == 1 ? a.ahead_bytes : kAheadBytes); });
    else {
      constexpr int ahead = kHalves ? kBlockBytes : kAheadBytes;  // note: a block; nearer, the second tile would ask for what the first has read
      with_rows(first, [&](auto MR) { add_products<T, MR, kFirstAsks>(a, 0, from, to, acc, ahead); });
      with_rows(second, [&](auto MR) { add_products<T, MR, kSecondAsks>(a, first, from, to, acc, ahead + kHalfStep); });
      for (int row = first + second; row < a.rows; row += kTileRows) {
        with_rows(std::min(kTileRows, a.rows - row), [&](auto MR) { add_products<T, MR, Asks::nothing>(a, row, from, to, acc); });
      }
    }
  }
  for (int r = 0; r < a.rows; r++) {
    if (a.epilogue == Epilogue::relu2) write_rounded_row(acc[r], a.outputs, static_cast<T*>(a.y) + r * a.y_stride);
    else write_row(a.epilogue, a.cap, acc[r], a.outputs, static_cast<float*>(a.y) + r * a.y_stride);
  }
}
#endif
