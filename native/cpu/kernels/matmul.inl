// y = epilogue(x w^T)                            MODEL.md 1: c_q, c_k, c_v, c_proj, mlp.c_fc, mlp.c_proj, lm_head
// x (rows, K) T, w one packed panel (K, 64) T -> y (rows, 64) float or T
// One call is one panel; the thread pool divides panels and blocks of rows.
// Bound: memory for one row, FMA throughput for many; measured shares in docs/bench.md.

inline Vec finish(Epilogue epilogue, float cap, Vec v, const float* y) {
  switch (epilogue) {
    case Epilogue::add: return add(load(y), v);
    case Epilogue::relu2: { const Vec positive = max(v, broadcast(0.0f)); return mul(positive, positive); }
    case Epilogue::softcap: return mul(broadcast(cap), tanh(div(v, broadcast(cap))));
    default: return v;
  }
}

// Writes one vector of outputs, `count` lanes of which exist.
template <class T>
inline void write_outputs(const MatmulPanel<T>& a, int row, int output, Vec v) {
  const int count = a.outputs - output;
  if (count <= 0) return;
  const int64_t at = row * a.y_stride + output;
  float lanes[kLanes];
  if (a.epilogue == Epilogue::relu2) {
    store(lanes, finish(a.epilogue, a.cap, v, lanes));
    T* y = static_cast<T*>(a.y) + at;
    for (int i = 0; i < kLanes && i < count; i++) y[i] = from_float<T>(lanes[i]);
    return;
  }
  float* y = static_cast<float*>(a.y) + at;
  if (count >= kLanes) return store(y, finish(a.epilogue, a.cap, v, y));
  for (int i = 0; i < count; i++) lanes[i] = y[i];
  for (int i = count; i < kLanes; i++) lanes[i] = 0;
  store(lanes, finish(a.epilogue, a.cap, v, lanes));
  for (int i = 0; i < count; i++) y[i] = lanes[i];
}

template <class T, int MR>
inline void matmul_rows(const MatmulPanel<T>& a, int row) {
  constexpr int NV = tile_vectors<T>(MR);
  for (int output = 0; output < a.outputs; output += NV * kLanes) {
    Vec acc[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) acc[r][v] = broadcast(0.0f);
    }
    tile<T, MR, NV>(a.x + row * a.x_stride, a.x_stride, a.w + output * kStep<T>, kPanel * kStep<T>, a.k, acc);
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
#pragma GCC unroll 16
      for (int v = 0; v < NV; v++) write_outputs(a, row + r, output + v * kLanes, acc[r][v]);
    }
  }
}

template <class T> void matmul_panel(const MatmulPanel<T>& a) {
  for (int row = 0; row < a.rows; row += kTileRows) {
    const int rows = std::min(kTileRows, a.rows - row);
    with_rows(rows, [&](auto MR) { matmul_rows<T, MR>(a, row); });
  }
}
