// What a model takes on a device, in bytes, before it is there: checked by load(), shown by `inspect`. No device needed.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>

#include "cuda/index.h"
#include "model/config.h"

namespace nanochat {
namespace cuda {

constexpr int64_t kSlab = 256;            // rows of logits, and queries of split attention, at a time
constexpr int64_t kLargestPass = 2048;    // tokens that lib/cuda-backend.ts puts into one pass of prompts

// `item`: bytes of float or bf16. `is_narrow(name, width)`: whether a table (V, width) is kept as bf16, as it is where bf16 is computed in.
template <class F> int64_t weight_bytes(const ModelConfig& c, int64_t item, const F& is_narrow) {
  const auto matrix = [&](int64_t outputs, int k) { return outputs * pad_to(k, kRowUnit) * item; };
  const auto table = [&](const std::string& name, int64_t width) { return c.vocab_size * width * (item == 2 || is_narrow(name, width) ? 2 : 4); };
  int64_t bytes = table("transformer.wte.weight", c.n_embd) + matrix(c.vocab_size, c.n_embd) + (c.has_smear ? kSmearChannels * 4 : 0);
  for (int l = 0; l < c.n_layer; l++) {
    bytes += matrix(c.qkv_dim(), c.n_embd) + matrix(c.n_embd, c.n_embd) + matrix(c.mlp_hidden, c.n_embd) + matrix(c.n_embd, c.mlp_hidden);
    if (c.has_value_embedding(l)) bytes += table("value_embeds." + std::to_string(l) + ".weight", c.kv_dim()) + c.n_kv_head * c.ve_gate_channels * 4;
  }
  return bytes;
}

inline int64_t kv_bytes_per_token(const ModelConfig& c, int64_t item) { return int64_t{2} * c.n_layer * c.n_kv_head * padded_head_dim(c.head_dim) * item; }

constexpr int kManyProcessors = 192;      // where the device is not known: 132 on an H200, 188 on the largest Blackwell

// Of a pass of `tokens`: activations of each, what a slab of them needs, what a device of so many processors needs. note:
// Model::resize_scratch allocates it.
inline int64_t working_bytes(const ModelConfig& c, int64_t item, int64_t tokens, int processors) {
  const int64_t Dp = padded_head_dim(c.head_dim), stride = pad_to(c.n_embd, kRowUnit), slab = std::min(tokens, kSlab);
  const int64_t floats = 4 * c.n_embd + c.qkv_dim() + 2 * (c.head_dim / 2), items = 2 * stride + c.n_head * Dp + pad_to(c.mlp_hidden, kRowUnit);
  const int64_t of_slab = c.n_head * kMaxSplits * (Dp + 2) + c.vocab_size, small = 1 << 20;  // rows, tokens and draws
  return tokens * (floats * 4 + items * item) + slab * of_slab * 4 + processors * kPartialOutputs * 4 + small;
}

}  // namespace cuda
}  // namespace nanochat
