// A model's weights as the CPU kernels want them. T is float or bf16.
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

// A linear layer: panels of 64 outputs, (outputs / 64, k / step, 64, step).
template <class T> struct PackedMatrix {
  int outputs = 0, k = 0;
  Buffer data;
  int panels() const { return (outputs + kPanel - 1) / kPanel; }
  const T* panel(int64_t index) const { return data.as<T>() + index * panel_elements<T>(k); }
};

// A table of which single rows are read: (rows, width), bf16 where it was stored so or bf16 is computed in.
struct Table {
  int64_t width = 0;
  bool is_bf16 = false;
  Buffer data;
  const void* row(int64_t index) const { return data.as<uint8_t>() + index * width * (is_bf16 ? 2 : 4); }
};

template <class T> struct LayerWeights {
  PackedMatrix<T> c_qkv;     // c_q, c_k, c_v one below the other: ((H + 2K) D, C)
  PackedMatrix<T> c_proj;    // (C, C)
  PackedMatrix<T> c_fc;      // (mlp_hidden, C)
  PackedMatrix<T> mlp_c_proj;  // (C, mlp_hidden)
  std::vector<float> ve_gate;  // (K, g), empty without a value embedding
  Table value_embeds;          // (V, K D)
  float resid_lambda = 1, x0_lambda = 0;
};

template <class T> struct Weights {
  Table wte;                 // (V, C)
  PackedMatrix<T> lm_head;   // (V, C)
  std::vector<LayerWeights<T>> layers;
  std::vector<float> smear_gate;  // (24)
  float smear_lambda = 0, backout_lambda = 0;
};

struct LoadContext {
  ThreadPool* pool;
  const std::atomic<bool>* cancelled;
  std::function<void(int64_t bytes, int64_t total)> on_progress;  // bytes of the finished weights
};

// Bytes that the weights of this configuration take in memory.
template <class T> int64_t weight_bytes(const ModelConfig& config, const TensorSource& source);

template <class T> Status load_weights(const ModelConfig& config, const TensorSource& source, const LoadContext& context, Weights<T>* weights);

}  // namespace nanochat
