// The architecture as data: what a checkpoint's numbers and its generation mean (MODEL.md 1 and 2).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/status.h"

namespace nanochat {

enum class Generation { G1, G2, G3, G4, G5, G6, HF };

// What a checkpoint states.
struct ModelSpec {
  Generation generation = Generation::G6;
  int sequence_len = 0, vocab_size = 0, n_layer = 0, n_head = 0, n_kv_head = 0, n_embd = 0;
  int mlp_hidden = 0;          // 0: 4 * n_embd
  std::string window_pattern;  // S and L, either case; layer l uses pattern[l % len]
  float softcap = 0;           // 0: by generation
  float rope_base = 0;         // 0: by generation
  float norm_eps = 0;          // 0: 2^-23
  bool rope_table_bf16 = false;
};

// What follows from it. Dimension letters as in MODEL.md: C H K D V L.
struct ModelConfig {
  Generation generation = Generation::G6;
  int sequence_len = 0, vocab_size = 0, n_layer = 0, n_head = 0, n_kv_head = 0, n_embd = 0;
  int head_dim = 0, mlp_hidden = 0;
  std::vector<int> windows;  // (L) keys before the query that layer l sees; -1: all
  float softcap = 0, rope_base = 0, norm_eps = 0;
  float qk_scale = 1;        // s
  bool rope_table_bf16 = false;
  bool has_lambdas = false;  // resid_lambdas, x0_lambdas
  bool has_smear = false;    // smear_gate, smear_lambda, backout_lambda
  int ve_gate_channels = 0;  // g; 0: no value embeddings
  float ve_gate_scale = 0;   // m

  int kv_dim() const { return n_kv_head * head_dim; }
  int qkv_dim() const { return (n_head + 2 * n_kv_head) * head_dim; }
  bool has_value_embedding(int layer) const { return ve_gate_channels > 0 && layer % 2 == (n_layer - 1) % 2; }
  int64_t max_positions() const { return 10 * static_cast<int64_t>(sequence_len); }
};

struct TensorShape {
  std::string name;
  std::vector<int64_t> shape;
};

constexpr int kSmearChannels = 24;

bool parse_generation(const std::string& name, Generation* generation);

// Checks the numbers and fills in the generation's constants.
Status make_config(const ModelSpec& spec, ModelConfig* config);

// Exactly the tensors of a checkpoint of this configuration, in nanochat's order.
std::vector<TensorShape> tensor_table(const ModelConfig& config);

}  // namespace nanochat
