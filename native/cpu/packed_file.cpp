#include "cpu/packed_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#endif

namespace nanochat {

namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kWritten = 8 << 20;  // bytes between looks at `cancelled`

class Collector {
 public:
  explicit Collector(const Weights* weights) : weights_(weights) {}

  void matrix(const std::string& name, ComputeType type, int64_t outputs, int64_t k, const PackedMatrix* m) {
    const int64_t panels = (outputs + kPanel - 1) / kPanel;
    const auto grouped = [&](WeightFormat format) { return std::vector<int64_t>{panels, groups_of(format, static_cast<int>(k)), group_bytes(format)}; };
    const void* data = m ? m->data : nullptr;
    switch (type) {
      case ComputeType::float32: return add({name, StoredType::f32, {panels, k, kPanel}, data, {}});
      case ComputeType::bfloat16: return add({name, StoredType::b16, {panels, (k + 1) / 2, kPanel, 2}, data, {}});
      case ComputeType::int8: return add({name, StoredType::packed, grouped(WeightFormat::int8), data, {}});
      case ComputeType::int4: return add({name, StoredType::packed, grouped(WeightFormat::int4), data, {}});
    }
  }

  void table(const std::string& name, int64_t rows, int64_t width, const Table* t) {
    add({name, !t || t->is_bf16 ? StoredType::b16 : StoredType::f32, {rows, width}, t ? t->data : nullptr, {}});
  }

  void small(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& numbers) {
    add({name, StoredType::f32, std::move(shape), nullptr, numbers});
    if (weights_) tensors.back().data = tensors.back().numbers.data();
  }

  std::vector<PackedTensor> tensors;

 private:
  void add(PackedTensor tensor) { tensors.push_back(std::move(tensor)); }

  const Weights* weights_;
};

std::string header_of(const std::vector<PackedTensor>& tensors, const std::string& metadata) {
  std::string json = "{\"__metadata__\":" + metadata;
  int64_t at = 0;
  for (const PackedTensor& tensor : tensors) {
    json += ",\"" + tensor.name + "\":{\"dtype\":\"" + safetensors_type(tensor.type) + "\",\"shape\":[";
    for (size_t d = 0; d < tensor.shape.size(); d++) json += (d ? "," : "") + std::to_string(tensor.shape[d]);
    json += "],\"data_offsets\":[" + std::to_string(at) + ",";
    at += tensor.bytes();
    json += std::to_string(at) + "]}";
  }
  json += "}";
  const int64_t length = static_cast<int64_t>(json.size()) + 8;
  json.append(static_cast<size_t>((length + kAlignment - 1) / kAlignment * kAlignment - length), ' ');
  const uint64_t size = json.size();
  std::string header(8, '\0');
  for (int i = 0; i < 8; i++) header[static_cast<size_t>(i)] = static_cast<char>(size >> (8 * i) & 0xff);
  return header + json;
}

// note: "x" refuses a file that exists; Windows wants its paths in UTF-16
FILE* open_new(const std::string& path) {
#if defined(_WIN32)
  const int length = MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring wide(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, &wide[0], length);
  return _wfopen(wide.c_str(), L"wxb");
#else
  return std::fopen(path.c_str(), "wxb");
#endif
}

}  // namespace

int64_t PackedTensor::bytes() const {
  int64_t bytes = bytes_of(type);
  for (int64_t dimension : shape) bytes *= dimension;
  return bytes;
}

const char* safetensors_type(StoredType type) { return type == StoredType::f32 ? "F32" : type == StoredType::b16 ? "BF16" : "U8"; }

std::vector<PackedTensor> packed_tensors(const ModelConfig& c, ComputeType type, const Weights* w) {
  Collector out(w);
  const int C = c.n_embd;
  const auto layer = [&](int l) { return w ? &w->layers[static_cast<size_t>(l)] : nullptr; };
  const auto h = [](int l) { return "transformer.h." + std::to_string(l); };
  for (int l = 0; l < c.n_layer; l++) {
    const LayerWeights* weights = layer(l);
    out.matrix(h(l) + ".attn.c_qkv.weight", type, c.qkv_dim(), C, weights ? &weights->c_qkv : nullptr);
    out.matrix(h(l) + ".attn.c_proj.weight", type, C, C, weights ? &weights->c_proj : nullptr);
    out.matrix(h(l) + ".mlp.c_fc.weight", type, c.mlp_hidden, C, weights ? &weights->c_fc : nullptr);
    out.matrix(h(l) + ".mlp.c_proj.weight", type, C, c.mlp_hidden, weights ? &weights->mlp_c_proj : nullptr);
  }
  out.matrix("lm_head.weight", lm_head_type(type), c.vocab_size, C, w ? &w->lm_head : nullptr);

  out.table("transformer.wte.weight", c.vocab_size, C, w ? &w->wte : nullptr);
  for (int l = 0; l < c.n_layer; l++) {
    if (c.has_value_embedding(l)) out.table("value_embeds." + std::to_string(l) + ".weight", c.vocab_size, c.kv_dim(), w ? &layer(l)->value_embeds : nullptr);
  }

  for (int l = 0; l < c.n_layer; l++) {
    if (c.has_value_embedding(l)) out.small(h(l) + ".attn.ve_gate.weight", {c.n_kv_head, c.ve_gate_channels}, w ? layer(l)->ve_gate : std::vector<float>());
  }
  if (c.has_lambdas) {
    std::vector<float> resid, x0;
    for (int l = 0; w && l < c.n_layer; l++) {
      resid.push_back(layer(l)->resid_lambda);
      x0.push_back(layer(l)->x0_lambda);
    }
    out.small("resid_lambdas", {c.n_layer}, resid);
    out.small("x0_lambdas", {c.n_layer}, x0);
  }
  if (c.has_smear) {
    out.small("smear_gate.weight", {1, kSmearChannels}, w ? w->smear_gate : std::vector<float>());
    out.small("smear_lambda", {1}, {w ? w->smear_lambda : 0});
    out.small("backout_lambda", {1}, {w ? w->backout_lambda : 0});
  }
  return std::move(out.tensors);
}

Status write_packed(const std::vector<PackedTensor>& tensors, const std::string& metadata, const std::string& path, const std::atomic<bool>& cancelled,
                    const std::function<void(int64_t bytes, int64_t total)>& on_progress) {
  const auto failed = [&] { return Status::error("ERR_CHECKPOINT_WRITE", "Could not write " + path + ": " + std::strerror(errno) + "."); };
  std::unique_ptr<FILE, int (*)(FILE*)> file(open_new(path), std::fclose);
  if (!file) return failed();
  std::setvbuf(file.get(), nullptr, _IONBF, 0);

  const std::string header = header_of(tensors, metadata);
  int64_t total = 0, done = 0;
  for (const PackedTensor& tensor : tensors) total += tensor.bytes();
  if (std::fwrite(header.data(), 1, header.size(), file.get()) != header.size()) return failed();
  for (const PackedTensor& tensor : tensors) {
    const char* data = static_cast<const char*>(tensor.data);
    for (int64_t at = 0, bytes = tensor.bytes(); at < bytes;) {
      if (cancelled) return Status::error("ERR_ABORTED", "Writing was aborted.");
      const size_t piece = static_cast<size_t>(std::min(kWritten, bytes - at));
      if (std::fwrite(data + at, 1, piece, file.get()) != piece) return failed();
      at += static_cast<int64_t>(piece);
      done += static_cast<int64_t>(piece);
      on_progress(done, total);
    }
  }
  return std::fclose(file.release()) == 0 ? Status{} : failed();
}

}  // namespace nanochat
