#include "cuda/weights.h"

#include <algorithm>
#include <type_traits>

namespace nanochat {
namespace cuda {

namespace {

constexpr int64_t kPieceElements = 8 << 20;  // read, converted and sent at a time

struct Part {
  std::string name;
  int rows;
};

template <class T> class Loader {
 public:
  Loader(const Source& source, const std::shared_ptr<Stream>& stream, int64_t total) : source_(source), stream_(stream), total_(total) {}

  Status status;  // nothing happens after the first error

  Matrix<T> matrix(const std::vector<Part>& parts, int k) {
    Matrix<T> out;
    out.stride = pad_to(k, kRowUnit);
    for (const Part& part : parts) out.outputs += part.rows;
    out.data = Memory(stream_, static_cast<size_t>(out.outputs * out.stride) * sizeof(T));
    int64_t at = 0;
    for (const Part& part : parts) {
      send<T>(part.name, part.rows, k, out.stride, out.data.template as<T>() + at * out.stride);
      at += part.rows;
    }
    return out;
  }

  Table table(const std::string& name, int64_t rows, int64_t width) {
    Table out;
    out.is_bf16 = std::is_same<T, bf16>::value || source_.is_bf16(name, rows, width);
    out.data = Memory(stream_, static_cast<size_t>(rows * width) * (out.is_bf16 ? 2 : 4));
    if (out.is_bf16) send<bf16>(name, rows, width, width, out.data.template as<bf16>());
    else send<float>(name, rows, width, width, out.data.template as<float>());
    return out;
  }

  Memory small(const std::string& name, int64_t rows, int64_t columns) {
    Memory out(stream_, static_cast<size_t>(rows * columns) * sizeof(float));
    send<float>(name, rows, columns, columns, out.as<float>());
    return out;
  }

  float scalar(const std::string& name, int index, int count) {
    std::vector<float> all(static_cast<size_t>(count));
    if (status.ok()) status = source_.read(name, 1, count, 0, 1, all.data());
    return all[static_cast<size_t>(index)];
  }

 private:
  template <class E> void send(const std::string& name, int64_t rows, int64_t columns, int64_t stride, E* to) {
    const int64_t most = std::max<int64_t>(1, std::min(rows, kPieceElements / stride));
    if (!status.ok()) return;
    std::vector<float> read(static_cast<size_t>(most * columns));
    const Pinned staging(stream_, static_cast<size_t>(most * stride) * sizeof(E));
    for (int64_t from = 0; from < rows; from += most) {
      const int64_t count = std::min(most, rows - from);
      status = source_.read(name, rows, columns, from, count, read.data());
      if (status.ok() && !stream_->ok()) status = stream_->take_status();
      if (!status.ok()) return;
      for (int64_t r = 0; r < count; r++) {
        E* row = staging.template as<E>() + r * stride;
        for (int64_t c = 0; c < columns; c++) row[c] = from_float<E>(read[static_cast<size_t>(r * columns + c)]);
        std::fill(row + columns, row + stride, from_float<E>(0));
      }
      stream_->to_device(to + from * stride, staging.template as<E>(), static_cast<size_t>(count * stride) * sizeof(E));
      stream_->synchronize();
      done_ += count * stride * static_cast<int64_t>(sizeof(E));
      status = stream_->take_status();
      if (status.ok() && !source_.progress(std::min(done_, total_), total_)) status = Status::error("ERR_ABORTED", "Loading was aborted.");
      if (!status.ok()) return;
    }
  }

  const Source& source_;
  const std::shared_ptr<Stream>& stream_;
  int64_t total_, done_ = 0;
};

}  // namespace

template <class T> Status load_weights(const ModelConfig& c, const Source& source, const std::shared_ptr<Stream>& stream, Weights<T>* w) {
  Loader<T> loader(source, stream, weight_bytes<T>(c, source));
  const int C = c.n_embd, L = c.n_layer;
  w->wte = loader.table("transformer.wte.weight", c.vocab_size, C);
  w->layers.resize(static_cast<size_t>(L));
  for (int l = 0; l < L && loader.status.ok(); l++) {
    LayerWeights<T>& layer = w->layers[static_cast<size_t>(l)];
    const std::string h = "transformer.h." + std::to_string(l);
    layer.c_qkv = loader.matrix({{h + ".attn.c_q.weight", c.n_head * c.head_dim}, {h + ".attn.c_k.weight", c.kv_dim()}, {h + ".attn.c_v.weight", c.kv_dim()}}, C);
    layer.c_proj = loader.matrix({{h + ".attn.c_proj.weight", C}}, C);
    layer.c_fc = loader.matrix({{h + ".mlp.c_fc.weight", c.mlp_hidden}}, C);
    layer.mlp_c_proj = loader.matrix({{h + ".mlp.c_proj.weight", C}}, c.mlp_hidden);
    if (c.has_lambdas) {
      layer.resid_lambda = loader.scalar("resid_lambdas", l, L);
      layer.x0_lambda = loader.scalar("x0_lambdas", l, L);
    }
    if (c.has_value_embedding(l)) {
      layer.ve_gate = loader.small(h + ".attn.ve_gate.weight", c.n_kv_head, c.ve_gate_channels);
      layer.value_embeds = loader.table("value_embeds." + std::to_string(l) + ".weight", c.vocab_size, c.kv_dim());
    }
  }
  if (c.has_smear) {
    w->smear_gate = loader.small("smear_gate.weight", 1, kSmearChannels);
    w->smear_lambda = loader.scalar("smear_lambda", 0, 1);
    w->backout_lambda = loader.scalar("backout_lambda", 0, 1);
  }
  w->lm_head = loader.matrix({{"lm_head.weight", c.vocab_size}}, C);
  return loader.status;
}

template Status load_weights<float>(const ModelConfig&, const Source&, const std::shared_ptr<Stream>&, Weights<float>*);
template Status load_weights<bf16>(const ModelConfig&, const Source&, const std::shared_ptr<Stream>&, Weights<bf16>*);

}  // namespace cuda
}  // namespace nanochat
