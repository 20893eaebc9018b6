// A model's weights on the device. T is float or bf16.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "cuda/runtime.h"
#include "model/config.h"

namespace nanochat {
namespace cuda {

// A linear layer, (outputs, stride), zeros beyond k.
template <class T> struct Matrix {
  int outputs = 0;
  int64_t stride = 0;
  Memory data;
};

// A table of which single rows are read, (rows, width): bf16 where it was stored so or bf16 is computed in.
struct Table {
  bool is_bf16 = false;
  Memory data;
};

template <class T> struct LayerWeights {
  Matrix<T> c_qkv;       // c_q, c_k, c_v one below the other: ((H + 2K) D, C)
  Matrix<T> c_proj;      // (C, C)
  Matrix<T> c_fc;        // (mlp_hidden, C)
  Matrix<T> mlp_c_proj;  // (C, mlp_hidden)
  Memory ve_gate;        // (K, g) float
  Table value_embeds;    // (V, K D)
  float resid_lambda = 1, x0_lambda = 0;
};

template <class T> struct Weights {
  Table wte;             // (V, C)
  Matrix<T> lm_head;     // (V, C)
  std::vector<LayerWeights<T>> layers;
  Memory smear_gate;     // (24) float
  float smear_lambda = 0, backout_lambda = 0;
};

// Where a model's numbers come from.
struct Source {
  std::function<bool(const std::string& name, int64_t rows, int64_t columns)> is_bf16;
  std::function<Status(const std::string& name, int64_t rows, int64_t columns, int64_t from, int64_t count, float* out)> read;
  std::function<bool(int64_t bytes, int64_t total)> progress;  // false: abort
};

template <class T> int64_t weight_bytes(const ModelConfig& config, const Source& source) {
  return weight_bytes(config, sizeof(T), [&](const std::string& name, int64_t width) { return source.is_bf16(name, config.vocab_size, width); });
}
template <class T> Status load_weights(const ModelConfig& config, const Source& source, const std::shared_ptr<Stream>& stream, Weights<T>* weights);

}  // namespace cuda
}  // namespace nanochat
