// A model's weights as the CPU kernels want them.
#pragma once
#include <atomic>
#include <functional>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "model/config.h"
#include "model/tensor_source.h"

namespace nanochat {

// What a model computes in. int8 and int4 are the types of the matrices; the KV cache is then bf16.
enum class ComputeType { float32, bfloat16, int8, int4 };

// With int4 the logits' matrix keeps 8 bits: its rounding would show most, and every token is read from it.
constexpr ComputeType lm_head_type(ComputeType type) { return type == ComputeType::int4 ? ComputeType::int8 : type; }

// A linear layer: panels of 64 outputs (kernels.h).
struct PackedMatrix {
  ComputeType type = ComputeType::float32;
  int outputs = 0, k = 0;
  const uint8_t* data = nullptr;

  int panels() const { return (outputs + kPanel - 1) / kPanel; }
  int64_t panel_size() const;  // bytes
  int64_t bytes() const;
  const uint8_t* panel(int64_t index) const { return data + index * panel_size(); }
  WeightFormat format() const { return type == ComputeType::int4 ? WeightFormat::int4 : WeightFormat::int8; }
};

// Writes one output's weights (k) to lane 0..63 of a panel of this type, whose other bytes begin as zeros.
void pack_output(ComputeType type, const float* weights, int k, int lane, uint8_t* panel);

// A table of which single rows are read: (rows, width), bf16 where it was stored so or less than float32 is computed in.
struct Table {
  int64_t width = 0;
  bool is_bf16 = false;
  const uint8_t* data = nullptr;
  Buffer owned;  // empty where the data are in a packed file
  int64_t row_bytes() const { return width * (is_bf16 ? 2 : 4); }
  const void* row(int64_t index) const { return data + index * row_bytes(); }
  // Asks for a row that will be read soon: rows lie anywhere in a large table, so each costs a cache miss.
  void prefetch(int64_t index) const {
#if defined(__GNUC__)
    for (int64_t i = 0; i < row_bytes(); i += 64) __builtin_prefetch(static_cast<const uint8_t*>(row(index)) + i, 0, 2);
#else
    (void)index;
#endif
  }
};

struct LayerWeights {
  PackedMatrix c_qkv;          // c_q, c_k, c_v one below the other: ((H + 2K) D, C)
  PackedMatrix c_proj;         // (C, C)
  PackedMatrix c_fc;           // (mlp_hidden, C)
  PackedMatrix mlp_c_proj;     // (C, mlp_hidden)
  std::vector<float> ve_gate;  // (K, g), empty without a value embedding
  Table value_embeds;          // (V, K D)
  float resid_lambda = 1, x0_lambda = 0;
};

struct Weights {
  Buffer matrices;       // of all layers and lm_head, one behind the other: few and large pages
  std::shared_ptr<const MappedFile> file;  // of a packed model: the tables are in it
  Table wte;             // (V, C)
  PackedMatrix lm_head;  // (V, C)
  std::vector<LayerWeights> layers;
  std::vector<float> smear_gate;  // (24)
  float smear_lambda = 0, backout_lambda = 0;
};

struct LoadContext {
  ThreadPool* pool;
  const std::atomic<bool>* cancelled;
  std::function<void(int64_t bytes, int64_t total)> on_progress;  // bytes of the finished weights
};

// Bytes that the weights of this configuration take in memory. Tables of a packed file are not among them.
int64_t weight_bytes(const ModelConfig& config, ComputeType type, const TensorSource& source);

// Bytes of them that every pass reads: the matrices.
int64_t matrix_bytes(const ModelConfig& config, ComputeType type);

Status load_weights(const ModelConfig& config, ComputeType type, const TensorSource& source, const LoadContext& context, Weights* weights);

}  // namespace nanochat
