#include "cpu/weights.h"

#include <algorithm>
#include <cstring>

#include "cpu/quantize.h"

namespace nanochat {

namespace {

constexpr const char* kLmHead = "lm_head.weight";
constexpr int64_t kTableRowsPerTask = 256;
constexpr int64_t kGroupElements = 4 << 20;
constexpr int64_t kCopiedBytes = 1 << 20;

// The tensors that are packed into one matrix, one below the other.
using Stack = std::vector<StoredTensor>;

int64_t size_of_panel(ComputeType type, int k) {
  switch (type) {
    case ComputeType::float32: return panel_elements<float>(k) * static_cast<int64_t>(sizeof(float));
    case ComputeType::bfloat16: return panel_elements<bf16>(k) * static_cast<int64_t>(sizeof(bf16));
    case ComputeType::int8: return panel_bytes(WeightFormat::int8, k);
    default: return panel_bytes(WeightFormat::int4, k);
  }
}

// weights (k) -> (k / step, 64, step)
template <class T> void pack_lane(const float* weights, int k, int lane, T* panel) {
  constexpr int step = kStep<T>;
  for (int i = 0; i < k; i++) panel[(i / step * kPanel + lane) * step + i % step] = from_float<T>(weights[i]);
}

class Loader {
 public:
  Loader(const TensorSource& source, ComputeType type, const LoadContext& context, int64_t total, Buffer* matrices)
      : source_(source), type_(type), context_(context), total_(total), next_matrix_(matrices->as<uint8_t>()) {}

  // The parts' outputs one below the other; a packed file has them as one tensor called `name`.
  Status matrix(const std::string& name, const std::vector<std::pair<std::string, int>>& parts, int k, PackedMatrix* out) {
    Stack stack;
    out->type = type_of(name);
    out->outputs = 0;
    out->k = k;
    for (const auto& part : parts) out->outputs += part.second;
    if (source_.is_packed()) return packed_matrix(name, out);
    for (const auto& part : parts) {
      StoredTensor tensor;
      Status status = source_.find(part.first, part.second, k, &tensor);
      if (!status.ok()) return status;
      stack.push_back(tensor);
    }
    const int64_t panel_size = out->panel_size();
    uint8_t* data = place(out);
    const int outputs = out->outputs;
    const auto end_of = [outputs](int64_t panel) { return std::min<int64_t>(outputs, panel * kPanel); };
    in_groups(out->panels(), static_cast<int64_t>(kPanel) * k, [&](int64_t panel) {
      pack_panel(stack, out->type, panel * kPanel, end_of(panel + 1), k, data + panel * panel_size);
    }, [&](int64_t from, int64_t to) { release(stack, end_of(from), end_of(to)); });
    return advance(out->bytes());
  }

  Status matrix(const std::string& name, int outputs, int k, PackedMatrix* out) { return matrix(name, {{name, outputs}}, k, out); }

  Status table(const std::string& name, int64_t rows, int64_t width, Table* out) {
    StoredTensor tensor;
    Status status = source_.find(name, rows, width, &tensor);
    if (!status.ok()) return status;
    out->width = width;
    out->is_bf16 = type_ != ComputeType::float32 || tensor.type == StoredType::b16;
    if (source_.is_packed()) return mapped_table(name, tensor, out);
    const int64_t row_bytes = out->row_bytes();
    out->owned = Buffer(static_cast<size_t>(rows * row_bytes));
    out->data = out->owned.as<uint8_t>();
    const auto end_of = [rows](int64_t task) { return std::min(rows, task * kTableRowsPerTask); };
    in_groups((rows + kTableRowsPerTask - 1) / kTableRowsPerTask, kTableRowsPerTask * width, [&](int64_t task) {
      copy_rows(tensor, end_of(task), end_of(task + 1), *out);
    }, [&](int64_t from, int64_t to) { tensor.release_rows(end_of(from), end_of(to)); });
    return advance(rows * row_bytes);
  }

  Status small(const std::string& name, int64_t rows, int64_t columns, std::vector<float>* out) { return source_.read_all(name, rows, columns, out); }

  Status scalar(const std::string& name, int64_t index, int64_t count, float* out) {
    std::vector<float> all;
    Status status = source_.read_all(name, 1, count, &all);
    if (status.ok()) *out = all[static_cast<size_t>(index)];
    return status;
  }

 private:
  // The place of the next matrix.
  uint8_t* place(PackedMatrix* matrix) {
    uint8_t* data = next_matrix_;
    matrix->data = data;
    next_matrix_ += matrix->bytes();
    return data;
  }

  // Copied, for huge pages and because each step reads all of it: two threads take a tenth of the time that read() takes.
  Status packed_matrix(const std::string& name, PackedMatrix* out) {
    const uint8_t* stored = nullptr;
    const int64_t bytes = out->bytes();
    Status status = source_.find_bytes(name, bytes, &stored);
    if (!status.ok()) return status;
    uint8_t* data = place(out);
    const auto end_of = [bytes](int64_t task) { return std::min(bytes, task * kCopiedBytes); };
    in_groups((bytes + kCopiedBytes - 1) / kCopiedBytes, kCopiedBytes / 16, [&](int64_t task) {
      std::memcpy(data + end_of(task), stored + end_of(task), static_cast<size_t>(end_of(task + 1) - end_of(task)));
    }, [&](int64_t from, int64_t to) { source_.file()->release(stored + end_of(from), stored + end_of(to)); });
    return advance(bytes);
  }

  static Status mapped_table(const std::string& name, const StoredTensor& tensor, Table* out) {
    const bool is_stored_so = tensor.type == (out->is_bf16 ? StoredType::b16 : StoredType::f32);
    if (!is_stored_so || reinterpret_cast<uintptr_t>(tensor.data) % 4 != 0) {
      return Status::error("ERR_CHECKPOINT_ARCH", "Expected tensor " + name + " to have the model's type at a multiple of 4 bytes.");
    }
    out->data = tensor.data;
    return {};
  }

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

  ComputeType type_of(const std::string& matrix) const { return matrix == kLmHead ? lm_head_type(type_) : type_; }

  Status advance(int64_t bytes) {
    if (*context_.cancelled) return Status::error("ERR_ABORTED", "Loading was aborted.");
    done_ += bytes;
    if (context_.on_progress) context_.on_progress(done_, total_);
    return {};
  }

  // Outputs [from, to) of the stack to the lanes of a panel; the lanes beyond are zero.
  static void pack_panel(const Stack& stack, ComputeType type, int64_t from, int64_t to, int k, uint8_t* panel) {
    std::vector<float> row(static_cast<size_t>(k));
    std::memset(panel, 0, static_cast<size_t>(size_of_panel(type, k)));
    for (int64_t output = from; output < to; output++) {
      int64_t stored_row = output;
      size_t part = 0;
      while (stored_row >= stack[part].rows) stored_row -= stack[part++].rows;
      stack[part].read_row(stored_row, row.data());
      pack_output(type, row.data(), k, static_cast<int>(output - from), panel);
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
  ComputeType type_;
  const LoadContext& context_;
  int64_t total_, done_ = 0;
  uint8_t* next_matrix_;
};

}  // namespace

void pack_output(ComputeType type, const float* weights, int k, int lane, uint8_t* panel) {
  switch (type) {
    case ComputeType::float32: return pack_lane(weights, k, lane, reinterpret_cast<float*>(panel));
    case ComputeType::bfloat16: return pack_lane(weights, k, lane, reinterpret_cast<bf16*>(panel));
    case ComputeType::int8: return quantize_weights(WeightFormat::int8, weights, k, lane, panel);
    case ComputeType::int4: return quantize_weights(WeightFormat::int4, weights, k, lane, panel);
  }
}

int64_t PackedMatrix::panel_size() const { return size_of_panel(type, k); }
int64_t PackedMatrix::bytes() const { return panels() * panel_size(); }

int64_t matrix_bytes(const ModelConfig& c, ComputeType type) {
  const auto panels = [](int64_t outputs) { return (outputs + kPanel - 1) / kPanel; };
  const auto packed = [&](int64_t outputs, int k) { return panels(outputs) * size_of_panel(type, k); };
  return panels(c.vocab_size) * size_of_panel(lm_head_type(type), c.n_embd) +
         c.n_layer * (packed(c.qkv_dim(), c.n_embd) + packed(c.n_embd, c.n_embd) + packed(c.mlp_hidden, c.n_embd) + packed(c.n_embd, c.mlp_hidden));
}

int64_t weight_bytes(const ModelConfig& c, ComputeType type, const TensorSource& source) {
  const auto table = [&](const std::string& name, int64_t width) {
    StoredTensor tensor;
    const bool is_bf16 = type != ComputeType::float32 || (source.find(name, c.vocab_size, width, &tensor).ok() && tensor.type == StoredType::b16);
    return c.vocab_size * width * (is_bf16 ? 2 : 4);
  };
  if (source.is_packed()) return matrix_bytes(c, type);
  int64_t bytes = matrix_bytes(c, type) + table("transformer.wte.weight", c.n_embd);
  for (int l = 0; l < c.n_layer; l++) {
    if (c.has_value_embedding(l)) bytes += table("value_embeds." + std::to_string(l) + ".weight", c.kv_dim());
  }
  return bytes;
}

Status load_weights(const ModelConfig& c, ComputeType type, const TensorSource& source, const LoadContext& context, Weights* w) {
  w->matrices = Buffer(static_cast<size_t>(matrix_bytes(c, type)));
  if (source.is_packed()) w->file = source.file();
  Loader loader(source, type, context, weight_bytes(c, type, source), &w->matrices);
  const int C = c.n_embd, L = c.n_layer, q_dim = c.n_head * c.head_dim, kv_dim = c.kv_dim();
  Status status = loader.table("transformer.wte.weight", c.vocab_size, C, &w->wte);
  if (!status.ok()) return status;
  w->layers.resize(static_cast<size_t>(L));
  for (int l = 0; l < L; l++) {
    LayerWeights& layer = w->layers[static_cast<size_t>(l)];
    const std::string h = "transformer.h." + std::to_string(l);
    status = loader.matrix(h + ".attn.c_qkv.weight", {{h + ".attn.c_q.weight", q_dim}, {h + ".attn.c_k.weight", kv_dim}, {h + ".attn.c_v.weight", kv_dim}}, C, &layer.c_qkv);
    if (status.ok()) status = loader.matrix(h + ".attn.c_proj.weight", C, C, &layer.c_proj);
    if (status.ok()) status = loader.matrix(h + ".mlp.c_fc.weight", c.mlp_hidden, C, &layer.c_fc);
    if (status.ok()) status = loader.matrix(h + ".mlp.c_proj.weight", C, c.mlp_hidden, &layer.mlp_c_proj);
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
  status = loader.matrix(kLmHead, c.vocab_size, C, &w->lm_head);
  return status.ok() ? source.check() : status;
}

}  // namespace nanochat
