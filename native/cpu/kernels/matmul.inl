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

// Writes a finished tile: `rows` rows of `lanes` products, of which those that are outputs of the panel exist.
// note: not inlined into the tiles, of which there are many; its time is that of one step in a few hundred
template <class T>
[[gnu::noinline]] void write_tile(const MatmulPanel<T>& a, int row, int rows, int output, int lanes, const float* products) {
  const int count = std::min(lanes, a.outputs - output);
  for (int r = 0; r < rows; r++) {
    const float* product = products + r * lanes;
    const int64_t at = (row + r) * a.y_stride + output;
    alignas(64) float out[kPanel] = {0};
    float* y = static_cast<float*>(a.y) + at;
    if (a.epilogue == Epilogue::add) std::copy_n(y, count, out);
    for (int n = 0; n < lanes; n += kLanes) store(out + n, finish(a.epilogue, a.cap, load(product + n), out + n));
    if (a.epilogue == Epilogue::relu2) {
      T* rounded = static_cast<T*>(a.y) + at;
      for (int n = 0; n < count; n++) rounded[n] = from_float<T>(out[n]);
    } else {
      std::copy_n(out, count, y);
    }
  }
}

// streams: these are the first rows to read the panel
template <class T, int MR, bool streams>
inline void matmul_rows(const MatmulPanel<T>& a, int row) {
  constexpr int NV = tile_vectors<T>(MR);
  for (int output = 0; output < a.outputs; output += NV * kLanes) {
    Vec acc[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) acc[r][v] = broadcast(0.0f);
    }
    const T* w = a.w + output * kStep<T>;
    tile<T, MR, NV, streams>(a.x + row * a.x_stride, a.x_stride, w, kPanel * kStep<T>, a.k, acc, w + kAheadBytes / sizeof(T));
    alignas(64) float products[MR * NV * kLanes];
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) store(products + (r * NV + v) * kLanes, acc[r][v]);
    }
    write_tile(a, row, MR, output, NV * kLanes, products);
  }
}

template <class T> void matmul_panel(const MatmulPanel<T>& a) {
  with_rows(std::min(kTileRows, a.rows), [&](auto MR) { matmul_rows<T, MR, (MR > 1)>(a, 0); });
  for (int row = kTileRows; row < a.rows; row += kTileRows) {
    with_rows(std::min(kTileRows, a.rows - row), [&](auto MR) { matmul_rows<T, MR, false>(a, row); });
  }
}
