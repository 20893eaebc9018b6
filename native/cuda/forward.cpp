// The forward pass, MODEL.md 1. Letters: T tokens of the pass, B rows, C n_embd, H n_head, K n_kv_head, D head_dim, V vocab.
#include "cuda/forward.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <type_traits>

namespace nanochat {
namespace cuda {

namespace {

constexpr int64_t kFewQueries = 4;   // new tokens of a row up to which each is a query of its own

// Tokens [from, from + count) of a pass.
struct Range {
  int64_t from, count;
};

// What the kernels of one pass work on; all pointers are the device's.
struct Pass {
  const Token* tokens;      // (T)
  const Row* rows;          // (B)
  int64_t T_;
  int longest;              // largest position; -1: not known, as in a captured step
  bool is_step;             // every row has one token
  std::vector<Range> few;   // whose queries stand alone
  const QueryTile* tiles;   // of the others
  int64_t tile_count;
  int tile_queries;
  const TensorMap* maps;    // of prefill_maps
};

template <class T> class ModelOf final : public Model {
 public:
  Status load(int device, const ModelConfig& config, const Source& source) {
    config_ = config;
    Dp_ = padded_head_dim(config_.head_dim);
    if (Dp_ == 0) {
      return Status::error("ERR_DEVICE_UNAVAILABLE", "The CUDA kernels take a head_dim of up to 128 and this model has " + std::to_string(config_.head_dim) + ". Use device 'cpu'.");
    }
    std::unique_ptr<Stream> opened;
    Status status = Stream::open(device, &opened);
    if (!status.ok()) return status;
    stream_ = std::move(opened);
    memory_bytes_ = weight_bytes<T>(config_, source);
    status = check_memory();
    if (!status.ok()) return status;
    slots_ = std::make_shared<SlotShape>();
    slots_->stream = stream_;
    slots_->heads = int64_t{2} * config_.n_layer * config_.n_kv_head;
    slots_->position_bytes = Dp_ * static_cast<int64_t>(sizeof(T));
    status = load_weights<T>(config_, source, stream_, &w_);
    if (!status.ok()) return status;
    std::vector<float> inv_freq;
    for (int i = 0; i < config_.head_dim / 2; i++) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(config_.head_dim);
      inv_freq.push_back(1.0f / static_cast<float>(std::pow(static_cast<double>(config_.rope_base), static_cast<double>(exponent))));
    }
    inv_freq_ = Memory(stream_, inv_freq.size() * sizeof(float));
    stream_->to_device(inv_freq_.template as<void>(), inv_freq.data(), inv_freq.size() * sizeof(float));
    stream_->synchronize();
    return stream_->take_status();
  }

  Status forward(const std::vector<BatchRow>& batch, float* out, const volatile uint8_t* cancelled) override {
    stream_->enter();
    begin(batch, 0);
    const bool is_done = logits_rows_ > 0 && run_persistent(pass_);
    if (!is_done) run(pass_);
    for (int64_t from = 0; from < logits_rows_ && stream_->ok(); from += kSlab) {
      const int64_t count = std::min(kSlab, logits_rows_ - from);
      if (!is_done) lm_head(picked_ + from, count, logits_.template as<float>());
      stream_->to_host(out + from * config_.vocab_size, logits_.template as<void>(), static_cast<size_t>(count * config_.vocab_size) * sizeof(float));
      stream_->synchronize();
    }
    stream_->synchronize();
    const Status status = end(cancelled);
    if (status.ok()) for (const BatchRow& row : batch) row.sequence->append(row.tokens, row.count);
    return status;
  }

  Status decode(const std::vector<BatchRow>& batch, std::vector<Draw> draws, const std::vector<int32_t>& pause_ids, std::vector<std::vector<int32_t>>* drawn,
                const volatile uint8_t* cancelled) override {
    stream_->enter();
    const int64_t B = static_cast<int64_t>(batch.size());
    int steps = 0;
    for (const Draw& draw : draws) steps = std::max(steps, draw.steps_left);
    begin(batch, steps - 1);
    begin_draws(batch, draws, pause_ids);
    const Graph* step = steps > 1 ? captured_step(B) : nullptr;
    int done = 0;
    if (!step || !pass_.is_step) {
      run_to_logits(pass_, picked_, B);
      draw_tokens(B);
      done = 1;
    }
    for (int s = done; s < steps && step && !*cancelled; s++) stream_->replay(*step);
    std::vector<int32_t> ids(static_cast<size_t>(steps * B));
    stream_->to_host(ids.data(), drawn_.template as<void>(), ids.size() * sizeof(int32_t));
    stream_->to_host(draws.data(), draws_.template as<void>(), draws.size() * sizeof(Draw));
    stream_->synchronize();
    const Status status = end(cancelled);
    if (!status.ok()) return status;
    drawn->assign(batch.size(), {});
    for (size_t r = 0; r < batch.size(); r++) {
      for (int s = 0; s < draws[r].taken; s++) (*drawn)[r].push_back(ids[static_cast<size_t>(s * B) + r]);
      batch[r].sequence->append(batch[r].tokens, batch[r].count);
      batch[r].sequence->append((*drawn)[r].data(), draws[r].taken - 1);
    }
    return {};
  }

 private:
  // Weights, the largest pass of prompts and one full context: with less a model could be loaded and not used.
  Status check_memory() {
    const int64_t item = sizeof(T), working = working_bytes(config_, item, std::min(kLargestPass, config_.max_positions()), stream_->processors());
    const int64_t context = config_.sequence_len * kv_bytes_per_token(config_, item), needed = memory_bytes_ + working + context, free = stream_->free_bytes();
    if (!stream_->ok()) return stream_->take_status();
    if (needed <= free) return {};
    const auto megabytes = [](int64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MB"; };
    return Status::error("ERR_OUT_OF_MEMORY", "The model needs " + megabytes(needed) + " on the device (weights " + megabytes(memory_bytes_) + ", a pass " + megabytes(working) +
                         ", one context " + megabytes(context) + ") and " + std::to_string(free >> 20) + " MB are free. Use dtype bfloat16, a smaller model or a device with more memory.");
  }

  // Lays the batch out for the device: tokens, rows, query tiles and the tokens whose logits are wanted, in one piece.
  void begin(const std::vector<BatchRow>& batch, int64_t more_positions) {
    std::vector<Token> tokens;
    std::vector<Row> rows;
    std::vector<QueryTile> tiles;
    std::vector<int32_t> picked;
    std::vector<Range> few;
    std::vector<int64_t> ends;
    int64_t T_ = 0;
    for (const BatchRow& row : batch) T_ += row.count;
    const int most = tile_queries(*stream_, config_.n_head, config_.head_dim, T_);
    pass_.longest = 0;
    for (const BatchRow& row : batch) {
      row.sequence->reserve(row.count + more_positions);
      if (!stream_->ok()) return;
      const int32_t r = static_cast<int32_t>(rows.size()), first = static_cast<int32_t>(tokens.size()), start = static_cast<int32_t>(row.sequence->length());
      const int32_t count = static_cast<int32_t>(row.count);
      int32_t previous = start > 0 ? row.sequence->ids().back() : -1;
      rows.push_back(row.sequence->row());
      ends.push_back(start + count);
      for (int32_t t = 0; t < count; t++) {
        if (row.logits == WantedLogits::all || (row.logits == WantedLogits::last && t == count - 1)) picked.push_back(first + t);
        tokens.push_back({row.tokens[t], previous, start + t, r});
        previous = row.tokens[t];
      }
      pass_.longest = std::max(pass_.longest, start + count - 1);
      if (std::is_same<T, bf16>::value && count > kFewQueries) {
        for (int32_t t = 0; t < count; t += most) tiles.push_back({r, first + t, std::min<int32_t>(most, count - t), start + t});
      } else if (!few.empty() && few.back().from + few.back().count == first) {
        few.back().count += count;
      } else {
        few.push_back({first, count});
      }
    }
    pass_.T_ = T_;
    pass_.is_step = tokens.size() == batch.size();
    pass_.few = std::move(few);
    pass_.tile_count = static_cast<int64_t>(tiles.size());
    logits_rows_ = static_cast<int64_t>(picked.size());
    last_tokens_.clear();
    for (size_t r = 0, t = 0; r < batch.size(); r++) last_tokens_.push_back(tokens[(t += static_cast<size_t>(batch[r].count)) - 1]);
    resize_scratch(std::max<int64_t>(pass_.T_, 1));
    if (is_persistent_ && !layers_.bytes()) describe_layers();
    std::stable_sort(tiles.begin(), tiles.end(), [](const QueryTile& a, const QueryTile& b) { return a.position + a.count > b.position + b.count; });
    std::vector<TensorMap> maps;
    if constexpr (std::is_same<T, bf16>::value) {
      if (prefill_takes_maps(*stream_, config_.head_dim) && !tiles.empty()) {
        maps.resize(1 + rows.size());
        prefill_maps(*stream_, q_.template as<bf16>(), pass_.T_, config_.n_head, slots_->heads, rows, ends, maps.data());
      }
    }

    constexpr int kParts = 5;
    const size_t sizes[kParts] = {tokens.size() * sizeof(Token), rows.size() * sizeof(Row), tiles.size() * sizeof(QueryTile), picked.size() * sizeof(int32_t), maps.size() * sizeof(TensorMap)};
    const void* parts[kParts] = {tokens.data(), rows.data(), tiles.data(), picked.data(), maps.data()};
    size_t at[kParts + 1] = {};
    for (int i = 0; i < kParts; i++) at[i + 1] = at[i] + static_cast<size_t>(pad_to(static_cast<int64_t>(sizes[i]), alignof(TensorMap)));
    if (staging_.bytes() < at[kParts]) {
      staging_ = Pinned(stream_, at[kParts]);
      batch_data_ = Memory(stream_, at[kParts]);
    }
    if (!stream_->ok()) return;
    for (int i = 0; i < kParts; i++) std::copy_n(static_cast<const char*>(parts[i]), sizes[i], staging_.template as<char>() + at[i]);
    stream_->to_device(batch_data_.template as<void>(), staging_.template as<void>(), at[kParts]);
    const char* data = batch_data_.template as<char>();
    pass_.tokens = reinterpret_cast<const Token*>(data + at[0]);
    pass_.rows = reinterpret_cast<const Row*>(data + at[1]);
    pass_.tiles = reinterpret_cast<const QueryTile*>(data + at[2]);
    picked_ = reinterpret_cast<const int32_t*>(data + at[3]);
    pass_.maps = maps.empty() ? nullptr : reinterpret_cast<const TensorMap*>(data + at[4]);
    pass_.tile_queries = most;
  }

  // note: the step's own arrays stay where they are, because captured steps know their addresses.
  void begin_draws(const std::vector<BatchRow>& batch, const std::vector<Draw>& draws, const std::vector<int32_t>& pause_ids) {
    if (!draws_.bytes()) {
      draws_ = Memory(stream_, kMostDecodeRows * sizeof(Draw));
      step_tokens_ = Memory(stream_, kMostDecodeRows * sizeof(Token));
      step_rows_ = Memory(stream_, kMostDecodeRows * sizeof(Row));
      every_row_ = Memory(stream_, kMostDecodeRows * sizeof(int32_t));
      pause_ids_ = Memory(stream_, (1 + kMostPauseIds) * sizeof(int32_t));
      kept_ = Memory(stream_, kMostDecodeRows * sizeof(Kept));
      candidates_ = Memory(stream_, size_t{kMostDecodeRows} * static_cast<size_t>(sample_parts(config_.vocab_size)) * sizeof(Candidate));
      drawn_ = Memory(stream_, size_t{kMostSteps} * kMostDecodeRows * sizeof(int32_t));
      std::vector<int32_t> every;
      for (int i = 0; i < kMostDecodeRows; i++) every.push_back(i);
      stream_->to_device(every_row_.template as<void>(), every.data(), every.size() * sizeof(int32_t));
      stream_->synchronize();
    }
    if (!stream_->ok()) return;
    for (size_t r = 0; r < batch.size(); r++) step_row_list_[r] = batch[r].sequence->row();
    has_cuts_ = std::any_of(draws.begin(), draws.end(), [](const Draw& d) { return d.temperature != 0 && (d.top_k > 0 || d.top_p < 1 || d.min_p > 0); });
    pause_list_.assign(1, static_cast<int32_t>(pause_ids.size()));
    pause_list_.insert(pause_list_.end(), pause_ids.begin(), pause_ids.end());
    for (Token& token : last_tokens_) token.row = static_cast<int32_t>(&token - last_tokens_.data());
    stream_->to_device(draws_.template as<void>(), draws.data(), draws.size() * sizeof(Draw));
    stream_->to_device(step_tokens_.template as<void>(), last_tokens_.data(), last_tokens_.size() * sizeof(Token));
    stream_->to_device(step_rows_.template as<void>(), step_row_list_, batch.size() * sizeof(Row));
    stream_->to_device(pause_ids_.template as<void>(), pause_list_.data(), pause_list_.size() * sizeof(int32_t));
  }

  void resize_scratch(int64_t T_) {
    const auto& c = config_;
    const int64_t hidden = pad_to(c.mlp_hidden, kRowUnit), slab = std::min(T_, kSlab);
    if (T_ > capacity_) {
      steps_.clear();
      layers_ = Memory();
      capacity_ = 0;
      const auto floats = [&](int64_t per_token) { return Memory(stream_, static_cast<size_t>(T_ * per_token) * sizeof(float)); };
      const auto padded = [&](int64_t per_token) {  // zeros beyond each row's width stay zeros
        Memory memory(stream_, static_cast<size_t>(T_ * per_token) * sizeof(T));
        stream_->zero(memory.template as<void>(), memory.bytes());
        return memory;
      };
      for (Memory& x : x_) x = floats(c.n_embd);
      x0_ = floats(c.n_embd);
      qkv_ = floats(c.qkv_dim());
      cos_ = floats(c.head_dim / 2);
      sin_ = floats(c.head_dim / 2);
      n_ = padded(stride());
      y_ = padded(stride());
      q_ = padded(int64_t{c.n_head} * Dp_);
      hidden_ = padded(hidden);
      if (stream_->ok()) capacity_ = T_;
    }
    if (slab > slab_) {
      steps_.clear();
      slab_ = 0;
      partial_ = Memory(stream_, static_cast<size_t>(slab * c.n_head * kMaxSplits * Dp_) * sizeof(float));
      weights_ = Memory(stream_, static_cast<size_t>(slab * c.n_head * kMaxSplits * 2) * sizeof(float));
      arrived_ = Memory(stream_, static_cast<size_t>(std::max<int64_t>({slab * c.n_head, stream_->processors(), kMostDecodeRows})) * sizeof(uint32_t));
      stream_->zero(arrived_.template as<void>(), arrived_.bytes());
      product_partial_ = Memory(stream_, static_cast<size_t>(kPartialOutputs * stream_->processors()) * sizeof(float));
      logits_ = Memory(stream_, static_cast<size_t>(slab * c.vocab_size) * sizeof(float));
      if (stream_->ok()) slab_ = slab;
    }
  }

  void run(const Pass& pass) {
    if (!stream_->ok()) return;
    const auto& c = config_;
    const int64_t T_ = pass.T_;
    float* x = x_[0].template as<float>();
    float* x0 = x0_.template as<float>();
    T* n = n_.template as<T>();
    T* y = y_.template as<T>();
    T* hidden = hidden_.template as<T>();
    x_backout_ = nullptr;

    cuda::rope_table(*stream_, rope_args(pass), T_);
    cuda::embed(*stream_, embed_args(pass), T_);
    for (int l = 0; l < c.n_layer; l++) {
      const LayerWeights<T>& layer = w_.layers[static_cast<size_t>(l)];
      // x = resid_lambda x + x0_lambda x0;  qkv = c_qkv norm(x)
      float* mixed = free_x(x);
      product_of_norm(layer.c_qkv, {x, c.has_lambdas ? x0 : nullptr, layer.resid_lambda, layer.x0_lambda, mixed, nullptr, c.n_embd, c.norm_eps, n, stride()}, T_, Epilogue::store,
                      qkv_.template as<float>(), c.qkv_dim());
      x = mixed;
      attention(l, layer, pass);
      product(layer.c_proj, y, T_, Epilogue::add, x, c.n_embd);                     // x = x + c_proj y
      product_of_norm(layer.c_fc, {x, nullptr, 1, 0, nullptr, nullptr, c.n_embd, c.norm_eps, n, stride()}, T_, Epilogue::relu2, hidden, layer.mlp_c_proj.stride);
      product(layer.mlp_c_proj, hidden, T_, Epilogue::add, x, c.n_embd);            // x = x + mlp.c_proj relu(mlp.c_fc norm(x))^2
      if (c.has_smear && l == c.n_layer / 2) x_backout_ = x;
    }
    x_last_ = x;
  }

  // What the layers of a step that is one kernel are given. note: arrays of a captured step, which must be there before it.
  void describe_layers() {
    std::vector<StepLayer<T>> layers;
    const auto& c = config_;
    const float* x = x_[0].template as<float>();
    x_backout_ = nullptr;
    for (int l = 0; l < c.n_layer; l++) {
      const LayerWeights<T>& layer = w_.layers[static_cast<size_t>(l)];
      float* mixed = free_x(x);
      layers.push_back({{layer.c_qkv.data.template as<T>(), layer.c_proj.data.template as<T>(), layer.c_fc.data.template as<T>(), layer.mlp_c_proj.data.template as<T>()},
                        layer.resid_lambda, layer.x0_lambda, x, mixed, layer.value_embeds.data.template as<void>(), layer.value_embeds.is_bf16, layer.ve_gate.template as<float>(),
                        c.windows[static_cast<size_t>(l)]});
      x = mixed;
      if (c.has_smear && l == c.n_layer / 2) x_backout_ = x;
    }
    x_last_ = x;
    layers_ = Memory(stream_, layers.size() * sizeof(StepLayer<T>));
    grid_arrived_ = Memory(stream_, sizeof(uint32_t));
    if (!stream_->ok()) return;
    stream_->to_device(layers_.template as<void>(), layers.data(), layers_.bytes());
    stream_->zero(grid_arrived_.template as<void>(), grid_arrived_.bytes());
    stream_->synchronize();
  }

  // run and lm_head of a step of one row in one kernel; false: not wanted, or it does not fit, and nothing was done.
  bool run_persistent(const Pass& pass) {
    was_persistent_ = false;
    if (!is_persistent_ || !pass.is_step || pass.T_ != 1 || !stream_->ok()) return false;
    const auto& c = config_;
    const MixNorm<T> norm{nullptr, c.has_lambdas ? x0_.template as<float>() : nullptr, 1, 0, nullptr, nullptr, c.n_embd, c.norm_eps, n_.template as<T>(), stride()};
    MixNorm<T> last = norm;
    last.x = x_last_;
    last.mixed = x_backout_;
    last.mixed_lambda = -w_.backout_lambda;
    AppendKv<T> append = append_args(0, w_.layers[0], pass);
    append.cos = append.sin = nullptr;
    was_persistent_ = decode_step<T>(*stream_, {embed_args(pass), rope_args(pass), append, attention_args(0, pass), norm, last, layers_.template as<StepLayer<T>>(), c.n_layer, hidden_.template as<T>(),
                                                c.mlp_hidden, pad_to(c.mlp_hidden, kRowUnit), w_.lm_head.data.template as<T>(), c.vocab_size, c.softcap,
                                                logits_.template as<float>(), grid_arrived_.template as<uint32_t>()});
    return was_persistent_;
  }

  void run_to_logits(const Pass& pass, const int32_t* picked, int64_t B) {
    if (run_persistent(pass)) return;
    run(pass);
    lm_head(picked, B, logits_.template as<float>());
  }

  // One of the three arrays that is neither `x` nor kept for the backout.
  float* free_x(const float* x) const {
    for (const Memory& one : x_) if (one.template as<float>() != x && one.template as<float>() != x_backout_) return one.template as<float>();
    return nullptr;
  }

  // q, k = s * norm(rope(q)), s * norm(rope(k)); v += gate * value_embeds[id]; k and v go to the cache;
  // y = attention(q, k, v): query i sees keys max(0, i - w)..i.
  void attention(int l, const LayerWeights<T>& layer, const Pass& pass) {
    const auto& c = config_;
    const AppendKv<T> append = append_args(l, layer, pass);
    const int window = c.windows[static_cast<size_t>(l)], most = pass.longest < 0 ? window + 1 : pass.longest - first_visible(pass.longest, window) + 1;
    const int splits = most > 0 ? most_splits(most) : kMaxSplits;
    const Attention<T> whole = attention_args(l, pass);
    if (pass.is_step && pass.T_ <= kSlab) return attention_append<T>(*stream_, whole, append, pass.T_, splits);
    append_kv<T>(*stream_, append, pass.T_);
    for (const Range& range : pass.few) {
      for (int64_t from = range.from; from < range.from + range.count; from += kSlab) {
        Attention<T> slab = whole;
        slab.tokens += from;
        slab.q += from * c.n_head * Dp_;
        slab.y += from * stride();
        attention_decode<T>(*stream_, slab, std::min(kSlab, range.from + range.count - from), splits);
      }
    }
    if constexpr (std::is_same<T, bf16>::value) {
      if (pass.tile_count > 0) attention_prefill(*stream_, {whole, pass.tiles, pass.tile_queries, pass.maps}, pass.tile_count);
    }
  }

  RopeTable rope_args(const Pass& pass) {
    return {pass.tokens, inv_freq_.template as<float>(), config_.head_dim / 2, config_.rope_table_bf16, cos_.template as<float>(), sin_.template as<float>()};
  }
  Embed embed_args(const Pass& pass) {
    return {pass.tokens, w_.wte.data.template as<void>(), w_.wte.is_bf16, config_.n_embd, config_.norm_eps, w_.smear_gate.template as<float>(), w_.smear_lambda,
            x_[0].template as<float>(), x0_.template as<float>()};
  }
  AppendKv<T> append_args(int l, const LayerWeights<T>& layer, const Pass& pass) {
    const auto& c = config_;
    return {pass.tokens, pass.rows, qkv_.template as<float>(), cos_.template as<float>(), sin_.template as<float>(), c.n_head, c.n_kv_head, c.head_dim, Dp_, l, c.norm_eps, c.qk_scale,
            q_.template as<T>(), layer.value_embeds.data.template as<void>(), layer.value_embeds.is_bf16, layer.ve_gate.template as<float>(), c.ve_gate_channels, c.ve_gate_scale,
            n_.template as<T>(), stride()};
  }
  Attention<T> attention_args(int l, const Pass& pass) {
    const auto& c = config_;
    return {pass.tokens, pass.rows, q_.template as<T>(), c.n_head, c.n_kv_head, c.head_dim, Dp_, l, c.windows[static_cast<size_t>(l)], 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
            partial_.template as<float>(), weights_.template as<float>(), arrived_.template as<uint32_t>(), y_.template as<T>(), stride()};
  }

  // x = x - backout_lambda x_backout;  logits = cap * tanh(lm_head norm(x) / cap), for `rows` picked tokens.
  void lm_head(const int32_t* picked, int64_t rows, float* logits) {
    const auto& c = config_;
    product_of_norm(w_.lm_head, {x_last_, x_backout_, 1, -w_.backout_lambda, nullptr, picked, c.n_embd, c.norm_eps, n_.template as<T>(), stride()}, rows, Epilogue::softcap, logits,
                    c.vocab_size);
  }

  void draw_tokens(int64_t B) {
    sample(*stream_, {logits_.template as<float>(), config_.vocab_size, static_cast<int>(B), draws_.template as<Draw>(), step_tokens_.template as<Token>(),
                      pause_ids_.template as<int32_t>(), drawn_.template as<int32_t>(), has_cuts_, kept_.template as<Kept>(), candidates_.template as<Candidate>(),
                      arrived_.template as<uint32_t>()});
  }

  // One decoding step of B rows, all of whose state is on the device.
  const Graph* captured_step(int64_t B) {
    const auto key = std::make_tuple(B, has_cuts_, is_persistent_);
    auto found = steps_.find(key);
    if (found == steps_.end()) {
      const Pass pass{step_tokens_.template as<Token>(), step_rows_.template as<Row>(), B, -1, true, {{0, B}}, nullptr, 0, 0, nullptr};
      auto graph = stream_->capture([&] {
        run_to_logits(pass, every_row_.template as<int32_t>(), B);
        draw_tokens(B);
      });
      found = steps_.emplace(key, std::move(graph)).first;
    }
    return found->second.get();
  }

  Status end(const volatile uint8_t* cancelled) {
    Status status = stream_->take_status();
    if (!status.ok()) {
      steps_.clear();
      layers_ = Memory();  // and with them the grid's counter, which a step that failed may leave anywhere
    }
    if (status.ok() && *cancelled) status = Status::error("ERR_ABORTED", "The pass was aborted.");
    return status;
  }

  // y (rows, outputs) = epilogue(x w^T)
  void product(const Matrix<T>& w, const T* x, int64_t rows, Epilogue epilogue, void* y, int64_t y_stride) {
    matmul<T>(*stream_, args(w, x, rows, epilogue, y, y_stride));
  }
  // The same of norm.n, which becomes the norm.
  void product_of_norm(const Matrix<T>& w, const MixNorm<T>& norm, int64_t rows, Epilogue epilogue, void* y, int64_t y_stride) {
    matmul_of_norm<T>(*stream_, args(w, norm.n, rows, epilogue, y, y_stride), norm);
  }
  Matmul<T> args(const Matrix<T>& w, const T* x, int64_t rows, Epilogue epilogue, void* y, int64_t y_stride) {
    return {x, w.data.template as<T>(), w.stride, y, y_stride, static_cast<int>(rows), w.outputs, epilogue, config_.softcap, product_partial_.template as<float>(),
            arrived_.template as<uint32_t>()};
  }

  int64_t stride() const { return pad_to(config_.n_embd, kRowUnit); }

  int Dp_ = 0;
  Weights<T> w_;
  Memory inv_freq_;                                            // (D / 2)
  Memory x_[3], x0_, qkv_, cos_, sin_;                         // float: (T, C) four times, (T, (H + 2K) D), (T, D / 2) twice
  const float *x_last_ = nullptr, *x_backout_ = nullptr;       // of x_
  Memory n_, q_, y_, hidden_;                                  // T: (T, C), (T, H, Dp), (T, C), (T, hidden), rows padded
  Memory partial_, weights_, logits_;                          // float, for kSlab rows
  Memory arrived_, product_partial_;                           // of blocks that share a result
  int64_t capacity_ = 0, slab_ = 0;
  Memory layers_, grid_arrived_;                               // StepLayer<T> (L), and the counter of sync_grid

  Pass pass_;
  Pinned staging_;
  Memory batch_data_;
  const int32_t* picked_ = nullptr;
  int64_t logits_rows_ = 0;
  std::vector<Token> last_tokens_;                             // (B)

  Memory draws_, step_tokens_, step_rows_, every_row_, pause_ids_, drawn_;
  Row step_row_list_[kMostDecodeRows];
  std::vector<int32_t> pause_list_;
  Memory kept_, candidates_;
  bool has_cuts_ = false;
  std::map<std::tuple<int64_t, bool, bool>, std::unique_ptr<Graph>> steps_;  // by number of rows, whether some of them cut, and is_persistent_
};

}  // namespace

Status load_model(int device, const ModelConfig& config, bool is_bf16, const Source& source, std::unique_ptr<Model>* model) {
  const auto load = [&](auto loaded) {
    const Status status = loaded->load(device, config, source);
    if (status.ok()) *model = std::move(loaded);
    return status;
  };
  return is_bf16 ? load(std::make_unique<ModelOf<bf16>>()) : load(std::make_unique<ModelOf<float>>());
}

}  // namespace cuda
}  // namespace nanochat
