#include "cpu/weights.h"

#include <algorithm>
#include <type_traits>

namespace nanochat {

namespace {

constexpr int64_t kTableRowsPerTask = 256;
constexpr int64_t kGroupElements = 4 << 20;

// The tensors that are packed into one matrix, one below the other.
using Stack = std::vector<StoredTensor>;

template <class T> class Loader {
 public:
  Loader(const TensorSource& source, const LoadContext& context, int64_t total) : source_(source), context_(context), total_(total) {}

  Status matrix(const std::vector<std::pair<std::string, int>>& parts, int k, PackedMatrix<T>* out) {
    Stack stack;
    out->outputs = 0;
    out->k = k;
    for (const auto& part : parts) {
      StoredTensor tensor;
      Status status = source_.find(part.first, part.second, k, &tensor);
      if (!status.ok()) return status;
      stack.push_back(tensor);
      out->outputs += part.second;
    }
    out->data = Buffer(static_cast<size_t>(out->panels() * panel_elements<T>(k)) * sizeof(T));
    T* data = out->data.template as<T>();
    const int outputs = out->outputs;
    const auto end_of = [outputs](int64_t panel) { return std::min<int64_t>(outputs, panel * kPanel); };
    in_groups(out->panels(), static_cast<int64_t>(kPanel) * k, [&](int64_t panel) {
      pack_panel(stack, panel * kPanel, end_of(panel + 1), k, data + panel * panel_elements<T>(k));
    }, [&](int64_t from, int64_t to) { release(stack, end_of(from), end_of(to)); });
    return advance(out->data.bytes());
  }

  Status table(const std::string& name, int64_t rows, int64_t width, Table* out) {
    StoredTensor tensor;
    Status status = source_.find(name, rows, width, &tensor);
    if (!status.ok()) return status;
    out->width = width;
    out->is_bf16 = std::is_same<T, bf16>::value || tensor.type == StoredType::b16;
    const int64_t row_bytes = width * (out->is_bf16 ? 2 : 4);
    out->data = Buffer(static_cast<size_t>(rows * row_bytes));
    const auto end_of = [rows](int64_t task) { return std::min(rows, task * kTableRowsPerTask); };
    in_groups((rows + kTableRowsPerTask - 1) / kTableRowsPerTask, kTableRowsPerTask * width, [&](int64_t task) {
      copy_rows(tensor, end_of(task), end_of(task + 1), *out);
    }, [&](int64_t from, int64_t to) { tensor.release_rows(end_of(from), end_of(to)); });
    return advance(out->data.bytes());
  }

  Status small(const std::string& name, int64_t rows, int64_t columns, std::vector<float>* out) { return source_.read_all(name, rows, columns, out); }

  Status scalar(const std::string& name, int64_t index, int64_t count, float* out) {
    std::vector<float> all;
    Status status = source_.read_all(name, 1, count, &all);
    if (status.ok()) *out = all[static_cast<size_t>(index)];
    return status;
  }

 private:
  // Runs the tasks in groups that read about kGroupElements and, when no thread reads any more, lets go of what a group
  // has read: a fault maps cached pages far around it, so a release beside a reader would not last.
  template <class F, class R> void in_groups(int64_t count, int64_t elements_per_task, const F& task, const R& release_read) {
    const int64_t group = std::max<int64_t>(1, kGroupElements / elements_per_task);
    for (int64_t from = 0; from < count && !*context_.cancelled; from += group) {
      const int64_t to = std::min(count, from + group);
      context_.pool->run(to - from, [&](int64_t i) { task(from + i); });
      release_read(from, to);
    }
  }

  Status advance(size_t bytes) {
    if (*context_.cancelled) return Status::error("ERR_ABORTED", "Loading was aborted.");
    done_ += static_cast<int64_t>(bytes);
    if (context_.on_progress) context_.on_progress(done_, total_);
    return {};
  }

  // Outputs [from, to) of the stack -> (k / step, 64, step); the lanes beyond are zero.
  static void pack_panel(const Stack& stack, int64_t from, int64_t to, int k, T* out) {
    constexpr int step = kStep<T>;
    std::vector<float> row(static_cast<size_t>(round_up(k, step)), 0.0f);
    std::fill_n(out, panel_elements<T>(k), from_float<T>(0.0f));
    for (int64_t output = from; output < to; output++) {
      int64_t stored_row = output;
      size_t part = 0;
      while (stored_row >= stack[part].rows) stored_row -= stack[part++].rows;
      stack[part].read_row(stored_row, row.data());
      T* lane = out + (output - from) * step;
      for (int i = 0; i < k; i += step) {
        for (int e = 0; e < step; e++) lane[e] = from_float<T>(row[static_cast<size_t>(i + e)]);
        lane += kPanel * step;
      }
    }
  }

  static void release(const Stack& stack, int64_t from, int64_t to) {
    int64_t first = 0;
    for (const StoredTensor& part : stack) {
      const int64_t begin = std::max(from - first, int64_t{0}), end = std::min(to - first, part.rows);
      if (begin < end) part.release_rows(begin, end);
      first += part.rows;
    }
  }

  static void copy_rows(const StoredTensor& tensor, int64_t from, int64_t to, const Table& out) {
    std::vector<float> row(static_cast<size_t>(out.width));
    for (int64_t r = from; r < to; r++) {
      tensor.read_row(r, row.data());
      void* target = const_cast<void*>(out.row(r));
      if (!out.is_bf16) {
        std::copy(row.begin(), row.end(), static_cast<float*>(target));
      } else {
        bf16* rounded = static_cast<bf16*>(target);
        for (int64_t c = 0; c < out.width; c++) rounded[c] = to_bf16(row[static_cast<size_t>(c)]);
      }
    }
  }

  const TensorSource& source_;
  const LoadContext& context_;
  int64_t total_, done_ = 0;
};

}  // namespace

template <class T> int64_t weight_bytes(const ModelConfig& c, const TensorSource& source) {
  const auto packed = [](int64_t outputs, int k) { return (outputs + kPanel - 1) / kPanel * panel_elements<T>(k) * static_cast<int64_t>(sizeof(T)); };
  const auto table = [&](const std::string& name, int64_t width) {
    StoredTensor tensor;
    const bool is_bf16 = std::is_same<T, bf16>::value || (source.find(name, c.vocab_size, width, &tensor).ok() && tensor.type == StoredType::b16);
    return c.vocab_size * width * (is_bf16 ? 2 : 4);
  };
  int64_t bytes = table("transformer.wte.weight", c.n_embd) + packed(c.vocab_size, c.n_embd);
  for (int l = 0; l < c.n_layer; l++) {
    bytes += packed(c.qkv_dim(), c.n_embd) + packed(c.n_embd, c.n_embd) + packed(c.mlp_hidden, c.n_embd) + packed(c.n_embd, c.mlp_hidden);
    if (c.has_value_embedding(l)) bytes += table("value_embeds." + std::to_string(l) + ".weight", c.kv_dim());
  }
  return bytes;
}

template <class T> Status load_weights(const ModelConfig& c, const TensorSource& source, const LoadContext& context, Weights<T>* w) {
  Loader<T> loader(source, context, weight_bytes<T>(c, source));
  const int C = c.n_embd, L = c.n_layer, q_dim = c.n_head * c.head_dim, kv_dim = c.kv_dim();
  Status status = loader.table("transformer.wte.weight", c.vocab_size, C, &w->wte);
  if (!status.ok()) return status;
  w->layers.resize(static_cast<size_t>(L));
  for (int l = 0; l < L; l++) {
    LayerWeights<T>& layer = w->layers[static_cast<size_t>(l)];
    const std::string h = "transformer.h." + std::to_string(l);
    status = loader.matrix({{h + ".attn.c_q.weight", q_dim}, {h + ".attn.c_k.weight", kv_dim}, {h + ".attn.c_v.weight", kv_dim}}, C, &layer.c_qkv);
    if (status.ok()) status = loader.matrix({{h + ".attn.c_proj.weight", C}}, C, &layer.c_proj);
    if (status.ok()) status = loader.matrix({{h + ".mlp.c_fc.weight", c.mlp_hidden}}, C, &layer.c_fc);
    if (status.ok()) status = loader.matrix({{h + ".mlp.c_proj.weight", C}}, c.mlp_hidden, &layer.mlp_c_proj);
    if (status.ok() && c.has_lambdas) status = loader.scalar("resid_lambdas", l, L, &layer.resid_lambda);
    if (status.ok() && c.has_lambdas) status = loader.scalar("x0_lambdas", l, L, &layer.x0_lambda);
    if (status.ok() && c.has_value_embedding(l)) status = loader.small(h + ".attn.ve_gate.weight", c.n_kv_head, c.ve_gate_channels, &layer.ve_gate);
    if (status.ok() && c.has_value_embedding(l)) status = loader.table("value_embeds." + std::to_string(l) + ".weight", c.vocab_size, kv_dim, &layer.value_embeds);
    if (!status.ok()) return status;
  }
  if (c.has_smear) {
    status = loader.small("smear_gate.weight", 1, kSmearChannels, &w->smear_gate);
    if (status.ok()) status = loader.scalar("smear_lambda", 0, 1, &w->smear_lambda);
    if (status.ok()) status = loader.scalar("backout_lambda", 0, 1, &w->backout_lambda);
    if (!status.ok()) return status;
  }
  return loader.matrix({{"lm_head.weight", c.vocab_size}}, C, &w->lm_head);
}

template int64_t weight_bytes<float>(const ModelConfig&, const TensorSource&);
template int64_t weight_bytes<bf16>(const ModelConfig&, const TensorSource&);
template Status load_weights<float>(const ModelConfig&, const TensorSource&, const LoadContext&, Weights<float>*);
template Status load_weights<bf16>(const ModelConfig&, const TensorSource&, const LoadContext&, Weights<bf16>*);

}  // namespace nanochat
