// The forward pass, MODEL.md 1. Letters: T tokens of the batch, C n_embd, H n_head, K n_kv_head, D head_dim, V vocab.
#include "cpu/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace nanochat {

namespace {

constexpr int kLeastGroup = 32;        // of a row of quantised activations
constexpr int64_t kSerialWork = 8192;  // elements below which waking the other threads costs more than it saves

// Rows that enter a product of float32 or bf16.
template <class T> struct PlainRows {
  T* values;  // (rows, stride)
  int64_t stride;
  PlainRows at(int64_t row, int64_t column) const { return {values + row * stride + column, stride}; }
};

// T: queries, keys, values and the attention's output; X: what enters the matrix products, T itself or int8.
template <class T, class X> class Forward final : public CpuModel {
  static constexpr bool kQuantized = std::is_same<X, int8_t>::value;
  using Norm = typename std::conditional<kQuantized, float, T>::type;  // the type that norm(x) is rounded to
  using Rows = typename std::conditional<kQuantized, QuantizedRows, PlainRows<T>>::type;

 public:
  Forward(ModelConfig config, const Kernels* kernels, ThreadPool* pool) : CpuModel(std::move(config), kernels, pool), k_(kernels->of<T>()) {
    const int D = config_.head_dim;
    key_elements_ = static_cast<int64_t>(D) * kPage;
    value_elements_ = static_cast<int64_t>(value_dim(D)) * kPage;
    layer_elements_ = config_.n_kv_head * (key_elements_ + value_elements_);
    page_pool_ = std::make_shared<PagePool>(static_cast<size_t>(layer_elements_) * config_.n_layer * sizeof(T));
    for (int i = 0; i < D / 2; i++) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(D);
      inv_freq_.push_back(1.0f / static_cast<float>(std::pow(static_cast<double>(config_.rope_base), static_cast<double>(exponent))));
    }
  }

  Status load(ComputeType type, const TensorSource& source, const LoadContext& context) {
    memory_bytes_ = weight_bytes(config_, type, source);
    matrix_bytes_ = nanochat::matrix_bytes(config_, type);
    return load_weights(config_, type, source, context, &w_);
  }

  const Weights& weights() const override { return w_; }

  int64_t pass_bytes(const std::vector<BatchRow>& batch) const override {
    const auto& c = config_;
    int64_t tokens = 0, pages = 0;
    for (const BatchRow& row : batch) {
      const int64_t length = row.sequence->length();
      tokens += row.count;
      pages += pages_of(length + row.count) - pages_of(length);
    }
    const int64_t floats = 3 * c.n_embd + c.qkv_dim() + c.head_dim;
    const int64_t per_token = floats * static_cast<int64_t>(sizeof(float)) + 2 * c.n_embd * static_cast<int64_t>(sizeof(T)) +
                              c.n_embd * static_cast<int64_t>(sizeof(Norm)) + row_bytes(input_stride()) + row_bytes(hidden_stride());
    return (tokens > capacity_ ? tokens * per_token : 0) + pages * static_cast<int64_t>(page_pool_->page_bytes());
  }

  Status forward(const std::vector<BatchRow>& batch, float* out, const std::atomic<bool>& cancelled) override {
    batch_ = &batch;
    Status status;
    try {
      begin(batch);
      status = run(out, cancelled);
      if (status.ok() && w_.file) status = w_.file->check();
    } catch (const std::bad_alloc&) {
      status = Status::error("ERR_OUT_OF_MEMORY", "Not enough memory for the KV cache or the activations of this pass. Use fewer rows, shorter prompts or a smaller model.");
    }
    for (const BatchRow& row : batch) {
      if (!status.ok()) row.sequence->truncate(row.sequence->length());
      else row.sequence->append(row.tokens, row.count);
    }
    return status;
  }

 private:
  // One token of the batch.
  struct Token {
    int32_t id;
    int32_t previous;  // the id before it in its sequence, -1 at the start
    int64_t position;
  };

  // Rows of attention that read the same keys: the heads of one token, or up to kAttentionRows tokens of one head.
  struct Tile {
    int64_t token;
    int head, rows;
    bool over_heads;
    const BatchRow* row;
  };

  void begin(const std::vector<BatchRow>& batch) {
    tokens_.clear();
    row_begin_.clear();
    logits_tokens_.clear();
    for (const BatchRow& row : batch) {
      row_begin_.push_back(static_cast<int64_t>(tokens_.size()));
      const int64_t start = row.sequence->length();
      int32_t previous = start > 0 ? row.sequence->ids().back() : -1;
      for (int64_t t = 0; t < row.count; t++) {
        if (row.logits == WantedLogits::all || (row.logits == WantedLogits::last && t == row.count - 1)) {
          logits_tokens_.push_back(static_cast<int64_t>(tokens_.size()));
        }
        tokens_.push_back({row.tokens[t], previous, start + t});
        previous = row.tokens[t];
      }
      row.sequence->reserve(row.count);
    }
    divide_attention(batch);
    resize_scratch();
  }

  // The attention of every layer in pieces. note: one query shares a kv head's keys among the heads of its group, several
  // queries share them per head.
  void divide_attention(const std::vector<BatchRow>& batch) {
    const int K = config_.n_kv_head, group = config_.n_head / K;
    tiles_.clear();
    for (size_t r = 0; r < batch.size(); r++) {
      const BatchRow& row = batch[r];
      for (int h = 0; h < K; h++) {
        if (row.count == 1) {
          tiles_.push_back({row_begin_[r], h * group, group, true, &row});
          continue;
        }
        for (int g = 0; g < group; g++) {
          for (int64_t t = 0; t < row.count; t += kAttentionRows) {
            tiles_.push_back({row_begin_[r] + t, h * group + g, static_cast<int>(std::min<int64_t>(kAttentionRows, row.count - t)), false, &row});
          }
        }
      }
    }
  }

  void resize_scratch() {
    const int64_t T_ = static_cast<int64_t>(tokens_.size());
    if (T_ <= capacity_) return;
    const auto& c = config_;
    const auto floats = [&](int64_t per_token) { return Buffer(static_cast<size_t>(T_ * per_token) * sizeof(float)); };
    capacity_ = 0;
    x_ = floats(c.n_embd);
    x0_ = floats(c.n_embd);
    x_backout_ = floats(c.n_embd);
    qkv_ = floats(c.qkv_dim());
    cos_ = floats(c.head_dim / 2);
    sin_ = floats(c.head_dim / 2);
    n_ = Buffer(static_cast<size_t>(T_ * c.n_embd) * sizeof(Norm));
    q_ = Buffer(static_cast<size_t>(T_ * c.n_embd) * sizeof(T));
    y_ = Buffer(static_cast<size_t>(T_ * c.n_embd) * sizeof(T));
    if (kQuantized) inputs_ = Buffer(static_cast<size_t>(T_ * row_bytes(input_stride())));
    hidden_ = Buffer(static_cast<size_t>(T_ * row_bytes(hidden_stride())));
    std::memset(hidden_.template as<void>(), 0, hidden_.bytes());  // note: an odd width is padded to whole steps of k
    capacity_ = T_;
  }

  Status run(float* out, const std::atomic<bool>& cancelled) {
    const auto& c = config_;
    const int C = c.n_embd;
    const auto aborted = [&] { return cancelled.load(std::memory_order_relaxed); };
    const Status abort = Status::error("ERR_ABORTED", "The pass was aborted.");

    rope_table();
    embed();
    for (int l = 0; l < c.n_layer; l++) {
      const LayerWeights& layer = w_.layers[static_cast<size_t>(l)];
      if (aborted()) return abort;
      each_token(C, [&](int64_t t) {                                   // x = resid_lambda x + x0_lambda x0;  n = norm(x)
        if (c.has_lambdas) kernels_->mix(x(t), x0(t), C, layer.resid_lambda, layer.x0_lambda);
        norm(t, t, layer.c_qkv);
        if (c.has_value_embedding(l)) layer.value_embeds.prefetch(tokens_[static_cast<size_t>(t)].id);
      });
      matmul(layer.c_qkv, inputs(layer.c_qkv, n(0)), T_(), Epilogue::store, qkv(0), c.qkv_dim());
      if (aborted()) return abort;
      append_prompts(l, layer);
      attention(l, layer);
      if (aborted()) return abort;
      if (kQuantized) each_token(C, [&](int64_t t) { quantize_attention(t, layer.c_proj); });
      matmul(layer.c_proj, inputs(layer.c_proj, y(0)), T_(), Epilogue::add, x(0), C);     // x = x + c_proj y
      each_token(C, [&](int64_t t) { norm(t, t, layer.c_fc); });
      const Rows hidden = hidden_of(layer.mlp_c_proj);
      relu2(layer.c_fc, inputs(layer.c_fc, n(0)), T_(), hidden);
      if (aborted()) return abort;
      matmul(layer.mlp_c_proj, hidden, T_(), Epilogue::add, x(0), C);
      if (c.has_smear && l == c.n_layer / 2) std::copy_n(x(0), T_() * C, x_backout_.template as<float>());
    }
    if (aborted()) return abort;
    lm_head(out);
    return {};
  }

  // cos and sin of every token's position: angle = fl32(position * inv_freq).
  void rope_table() {
    const int half = config_.head_dim / 2;
    each_token(half * 32, [&](int64_t t) {
      float* cos = cos_.template as<float>() + t * half;
      float* sin = sin_.template as<float>() + t * half;
      for (int i = 0; i < half; i++) {
        const double angle = static_cast<float>(tokens_[static_cast<size_t>(t)].position) * inv_freq_[static_cast<size_t>(i)];
        cos[i] = static_cast<float>(std::cos(angle));
        sin[i] = static_cast<float>(std::sin(angle));
        if (config_.rope_table_bf16) {
          cos[i] = to_float(to_bf16(cos[i]));
          sin[i] = to_float(to_bf16(sin[i]));
        }
      }
    });
  }

  // x = norm(wte[id]) and, in G6, x_t += smear_lambda * sigmoid(smear_gate . x_t[0:24]) * x_{t-1}; x0 = x.
  void embed() {
    const auto& c = config_;
    const int C = c.n_embd;
    each_token(2 * C, [&](int64_t t) {
      const Token& token = tokens_[static_cast<size_t>(t)];
      float* xt = x(t);
      kernels_->embed(w_.wte.row(token.id), w_.wte.is_bf16, C, c.norm_eps, xt);
      if (c.has_smear && token.previous >= 0) {
        float* before = x0(t);
        kernels_->embed(w_.wte.row(token.previous), w_.wte.is_bf16, C, c.norm_eps, before);
        float dot = 0;
        for (int i = 0; i < kSmearChannels; i++) dot += w_.smear_gate[static_cast<size_t>(i)] * xt[i];
        kernels_->mix(xt, before, C, 1.0f, w_.smear_lambda / (1.0f + std::exp(-dot)));
      }
      std::copy_n(xt, C, x0(t));
    });
  }

  // The keys and values of rows of several tokens, before any of their tiles reads them.
  void append_prompts(int l, const LayerWeights& layer) {
    const int K = config_.n_kv_head;
    if (std::all_of(tiles_.begin(), tiles_.end(), [](const Tile& tile) { return tile.over_heads; })) return;
    each(static_cast<int64_t>(batch_->size()) * K, T_() * config_.qkv_dim(), [&](int64_t task) {
      const size_t r = static_cast<size_t>(task / K);
      const BatchRow& row = (*batch_)[r];
      for (int64_t t = row_begin_[r]; row.count > 1 && t < row_begin_[r] + row.count; t++) append(l, layer, row, t, static_cast<int>(task % K));
    });
  }

  // Of kv head h: q, k = s * norm(rope(q)), s * norm(rope(k)); v += gate * value_embeds[id]; k and v go to the cache, q to q_.
  void append(int l, const LayerWeights& layer, const BatchRow& row, int64_t t, int h) {
    const auto& c = config_;
    const int D = c.head_dim, K = c.n_kv_head, group = c.n_head / K;
    const Token& token = tokens_[static_cast<size_t>(t)];
    const float* cos = cos_.template as<float>() + t * (D / 2);
    const float* sin = sin_.template as<float>() + t * (D / 2);
    for (int g = 0; g < group; g++) {
      float* q = qkv(t) + (h * group + g) * D;
      kernels_->rope_norm(q, cos, sin, D, c.norm_eps, c.qk_scale);
      k_.convert(q, D, q_.template as<T>() + t * c.n_embd + (h * group + g) * D);
    }
    float* k = qkv(t) + (c.n_head + h) * D;
    float* v = qkv(t) + (c.n_head + K + h) * D;
    kernels_->rope_norm(k, cos, sin, D, c.norm_eps, c.qk_scale);
    if (c.has_value_embedding(l)) {
      const Table& table = layer.value_embeds;
      const uint8_t* value = static_cast<const uint8_t*>(table.row(token.id)) + static_cast<int64_t>(h) * D * (table.is_bf16 ? 2 : 4);
      kernels_->of<Norm>().gated_value(v, value, table.is_bf16, D, layer.ve_gate.data() + h * c.ve_gate_channels, n(t), c.ve_gate_channels, c.ve_gate_scale);
    }
    T* page = static_cast<T*>(row.sequence->page(token.position / kPage));
    k_.append_kv(k, v, D, static_cast<int>(token.position % kPage), page + key_offset(l, h), page + value_offset(l, h));
  }

  // y = attention(q, k, v): query i sees keys max(0, i - w)..i. note: the stores of a single token's keys and values miss
  // the cache; they end while the older keys are read.
  void attention(int l, const LayerWeights& layer) {
    const auto count = static_cast<int64_t>(tiles_.size());
    pool_->run(count, [&](int64_t i) {
      const Tile& tile = tiles_[static_cast<size_t>(i)];
      if (tile.over_heads) append(l, layer, *tile.row, tile.token, tile.head * config_.n_kv_head / config_.n_head);
      attend(l, tile, tiles_[static_cast<size_t>(std::min(i + 1, count - 1))]);
    });
  }

  void attend(int l, const Tile& tile, const Tile& next) {
    const auto& c = config_;
    const int D = c.head_dim, group = c.n_head / c.n_kv_head, h = tile.head / group;
    for (int first = 0; first < tile.rows; first += kAttentionRows) {
      const int rows = std::min(kAttentionRows, tile.rows - first);
      AttentionRow seen[kAttentionRows];
      for (int r = 0; r < rows; r++) seen[r] = seen_by(l, tile.token + (tile.over_heads ? 0 : r));
      const int64_t at = tile.token * c.n_embd + static_cast<int64_t>(tile.head + first) * D;
      const int64_t stride = tile.over_heads ? D : c.n_embd;
      k_.attention_tile({q_.template as<T>() + at, stride, y_.template as<T>() + at, stride, seen, rows, D,
                         1.0f / std::sqrt(static_cast<float>(D)), tile.row->sequence->pages().data(), key_offset(l, h), value_offset(l, h), first_keys(l, next)});
    }
  }

  AttentionRow seen_by(int l, int64_t t) const {
    const int64_t position = tokens_[static_cast<size_t>(t)].position, window = config_.windows[static_cast<size_t>(l)];
    return {window < 0 ? 0 : std::max<int64_t>(0, position - window), position};
  }

  const T* first_keys(int l, const Tile& tile) const {
    const auto page = static_cast<size_t>(seen_by(l, tile.token).first / kPage);
    return static_cast<const T*>(tile.row->sequence->pages()[page]) + key_offset(l, tile.head * config_.n_kv_head / config_.n_head);
  }

  // x = x - backout_lambda x_backout;  logits = cap * tanh(lm_head norm(x) / cap), for the tokens that want them.
  void lm_head(float* out) {
    const auto& c = config_;
    const int C = c.n_embd;
    const int64_t rows = static_cast<int64_t>(logits_tokens_.size());
    each(rows, rows * C, [&](int64_t i) {
      const int64_t t = logits_tokens_[static_cast<size_t>(i)];
      if (c.has_smear) kernels_->mix(x(t), x_backout_.template as<float>() + t * C, C, 1.0f, -w_.backout_lambda);
      norm(t, i, w_.lm_head);
    });
    matmul(w_.lm_head, inputs(w_.lm_head, n(0)), rows, Epilogue::softcap, out, c.vocab_size, c.softcap);
  }

  // Row i of the inputs of `next` = norm(x(t)).
  void norm(int64_t t, int64_t i, const PackedMatrix& next) {
    kernels_->of<Norm>().rms_norm(x(t), config_.n_embd, config_.norm_eps, n(i));
    if constexpr (kQuantized) kernels_->quantized.quantize(n(i), config_.n_embd, inputs(next, n(0)).at(i, 0));
  }

  // Row t of the inputs of `next` = y(t), by way of n(t).
  void quantize_attention(int64_t t, const PackedMatrix& next) {
    if constexpr (kQuantized) {
      for (int c = 0; c < config_.n_embd; c++) n(t)[c] = to_float(y(t)[c]);
      kernels_->quantized.quantize(n(t), config_.n_embd, inputs(next, n(0)).at(t, 0));
    }
  }

  // The rows that enter the product with w: `values` (T, C), or what they were quantised to.
  template <class V> Rows inputs(const PackedMatrix& w, V* values) {
    if constexpr (kQuantized) return quantized_rows(inputs_, input_stride(), w);
    else return {values, config_.n_embd};
  }

  Rows hidden_of(const PackedMatrix& w) {
    if constexpr (kQuantized) return quantized_rows(hidden_, hidden_stride(), w);
    else return {hidden_.template as<T>(), hidden_stride()};
  }

  // A buffer's rows of `stride` values, and behind them their groups, in groups as w has them.
  QuantizedRows quantized_rows(Buffer& buffer, int64_t stride, const PackedMatrix& w) {
    int8_t* values = buffer.as<int8_t>();
    const int group = group_size(w.format());
    return {values, reinterpret_cast<ActivationGroup*>(values + capacity_ * stride), stride, stride / group, group};
  }

  // y (rows, outputs) = epilogue(x w^T); x (rows, k)
  void matmul(const PackedMatrix& w, const Rows& x, int64_t rows, Epilogue epilogue, float* y, int64_t y_stride, float cap = 0) {
    each_panel(w, x, rows, [&](auto& a, int64_t panel, int64_t row) {
      a.y = y + row * y_stride + panel * kPanel;
      a.y_stride = y_stride;
      a.epilogue = epilogue;
      a.cap = cap;
    });
  }

  // hidden (rows, outputs) = relu(x w^T)^2
  void relu2(const PackedMatrix& w, const Rows& x, int64_t rows, const Rows& hidden) {
    each_panel(w, x, rows, [&](auto& a, int64_t panel, int64_t row) {
      if constexpr (kQuantized) {
        a.hidden = hidden.at(row, panel * kPanel);
      } else {
        a.y = hidden.at(row, panel * kPanel).values;
        a.y_stride = hidden.stride;
      }
      a.epilogue = Epilogue::relu2;
    });
  }

  // Tasks of panels and blocks of rows; set_output says where the results go. note: few rows wait for the memory, which is
  // fastest when a thread reads far at a stretch, as the pool's shares let it; where kernels take several panels at once, they get
  // as many of them as leaves all threads the same.
  template <class F> void each_panel(const PackedMatrix& w, const Rows& x, int64_t rows, const F& set_output) {
    using Panel = typename std::conditional<kQuantized, QuantizedPanel, MatmulPanel<T>>::type;
    const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock, all = w.panels();
    const int64_t pieces = std::min(all, shares(all, pool_->threads(), panels_at_once<Panel>(*kernels_, rows)));
    pool_->run(pieces * blocks, [&](int64_t task) {
      const int64_t piece = task / blocks, row = task % blocks * kRowBlock;
      const int64_t panel = all * piece / pieces, end = all * (piece + 1) / pieces;
      Panel a{};
      a.rows = static_cast<int>(std::min<int64_t>(kRowBlock, rows - row));
      a.panels = static_cast<int>(end - panel);
      a.outputs = static_cast<int>(std::min<int64_t>(kPanel, w.outputs - (end - 1) * kPanel));
      set_output(a, panel, row);
      if constexpr (kQuantized) {
        a.x = x.at(row, 0);
        a.w = w.panel(panel);
        a.groups = groups_of(w.format(), w.k);
        w.type == ComputeType::int8 ? kernels_->quantized.matmul_int8(a) : kernels_->quantized.matmul_int4(a);
      } else {
        a.x = x.at(row, 0).values;
        a.x_stride = x.stride;
        a.w = reinterpret_cast<const T*>(w.panel(panel));
        a.k = round_up(w.k, kStep<T>);
        a.ahead_bytes = pool_->threads() > 1 ? kAheadBytes : 0;  // note: measured; one thread alone gains nothing
        k_.matmul_panel(a);
      }
    });
  }

  // Pieces of at most `most` of `all` things, as many for each thread.
  static int64_t shares(int64_t all, int64_t threads, int64_t most) {
    const int64_t of_thread = (all + threads - 1) / threads;
    return (of_thread + most - 1) / most * threads;
  }

  // f(0) .. f(count - 1), on all threads when there is enough work (in elements) to share.
  template <class F> void each(int64_t count, int64_t work, const F& f) {
    if (work > kSerialWork) return pool_->run(count, f);
    for (int64_t i = 0; i < count; i++) f(i);
  }

  template <class F> void each_token(int64_t work_per_token, const F& f) { each(T_(), T_() * work_per_token, f); }

  int64_t T_() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t input_stride() const { return kQuantized ? round_up(config_.n_embd, kPanel) : 0; }
  int64_t hidden_stride() const { return round_up(config_.mlp_hidden, kQuantized ? kPanel : 2); }
  int64_t row_bytes(int64_t stride) const { return stride * static_cast<int64_t>(sizeof(X)) + (kQuantized ? stride / kLeastGroup * static_cast<int64_t>(sizeof(ActivationGroup)) : 0); }
  float* x(int64_t t) { return x_.template as<float>() + t * config_.n_embd; }
  float* x0(int64_t t) { return x0_.template as<float>() + t * config_.n_embd; }
  Norm* n(int64_t t) { return n_.template as<Norm>() + t * config_.n_embd; }
  T* y(int64_t t) { return y_.template as<T>() + t * config_.n_embd; }
  float* qkv(int64_t t) { return qkv_.template as<float>() + t * config_.qkv_dim(); }
  int64_t key_offset(int l, int h) const { return l * layer_elements_ + h * (key_elements_ + value_elements_); }
  int64_t value_offset(int l, int h) const { return key_offset(l, h) + key_elements_; }

  const KernelsOf<T>& k_;
  Weights w_;
  std::vector<float> inv_freq_;                                     // (D / 2)
  int64_t key_elements_, value_elements_, layer_elements_;  // of a page: one kv head's keys, values; a layer

  const std::vector<BatchRow>* batch_ = nullptr;
  std::vector<Token> tokens_;             // (T)
  std::vector<int64_t> row_begin_;        // first token of each batch row
  std::vector<Tile> tiles_;
  std::vector<int64_t> logits_tokens_;    // tokens whose logits are wanted
  int64_t capacity_ = 0;                  // tokens the scratch below has room for
  Buffer x_, x0_, x_backout_;             // (T, C) float
  Buffer qkv_;                            // (T, (H + 2K) D) float
  Buffer cos_, sin_;                      // (T, D / 2) float
  Buffer n_;                              // (T, C) Norm
  Buffer q_, y_;                          // (T, C) T
  Buffer inputs_;                         // (T, C) int8 and their groups
  Buffer hidden_;                         // (T, mlp_hidden) X, and their groups
};

template <class T, class X>
Status load_as(const ModelConfig& config, ComputeType type, const TensorSource& source, const Kernels* kernels, const LoadContext& context, std::unique_ptr<CpuModel>* model) {
  auto loaded = std::make_unique<Forward<T, X>>(config, kernels, context.pool);
  Status status = loaded->load(type, source, context);
  if (status.ok()) *model = std::move(loaded);
  return status;
}

}  // namespace

Status load_cpu_model(const ModelConfig& config, ComputeType type, const TensorSource& source, const Kernels* kernels,
                      const LoadContext& context, std::unique_ptr<CpuModel>* model) {
  switch (type) {
    case ComputeType::float32: return load_as<float, float>(config, type, source, kernels, context, model);
    case ComputeType::bfloat16: return load_as<bf16, bf16>(config, type, source, kernels, context, model);
    default: return load_as<bf16, int8_t>(config, type, source, kernels, context, model);
  }
}

}  // namespace nanochat
