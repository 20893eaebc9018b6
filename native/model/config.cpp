#include "model/config.h"

#include <cctype>

namespace nanochat {

namespace {

Status invalid(const std::string& message) { return Status::error("ERR_CHECKPOINT_ARCH", message); }

int short_window(Generation generation, int sequence_len) {
  auto in_tiles = [](int keys) { return (keys + 127) / 128 * 128; };
  switch (generation) {
    case Generation::G5: return in_tiles((sequence_len + 2) / 3);
    case Generation::G6: return in_tiles((sequence_len + 3) / 4);
    default: return sequence_len / 2;
  }
}

Status in_range(const char* name, int value, int most) {
  if (value >= 1 && value <= most) return {};
  return invalid("Expected " + std::string(name) + " from 1 to " + std::to_string(most) + " but received " + std::to_string(value) + ".");
}

Status check(const ModelSpec& s) {
  struct { const char* name; int value, most; } limits[] = {
      {"sequence_len", s.sequence_len, 1 << 24}, {"vocab_size", s.vocab_size, 1 << 24}, {"n_layer", s.n_layer, 1024},
      {"n_head", s.n_head, 4096}, {"n_kv_head", s.n_kv_head, 4096}, {"n_embd", s.n_embd, 1 << 17}};
  for (const auto& l : limits) {
    Status status = in_range(l.name, l.value, l.most);
    if (!status.ok()) return status;
  }
  if (s.mlp_hidden < 0 || s.mlp_hidden > (1 << 20)) return invalid("Expected an MLP width from 1 to 1048576 but received " + std::to_string(s.mlp_hidden) + ".");
  if (s.n_embd % s.n_head != 0) return invalid("Expected n_embd to be a multiple of n_head but received " + std::to_string(s.n_embd) + " and " + std::to_string(s.n_head) + ".");
  const int head_dim = s.n_embd / s.n_head;
  if (head_dim % 2 != 0 || head_dim > 1024) return invalid("Expected an even head_dim up to 1024 but received " + std::to_string(head_dim) + ".");
  if (s.n_head % s.n_kv_head != 0) return invalid("Expected n_head to be a multiple of n_kv_head but received " + std::to_string(s.n_head) + " and " + std::to_string(s.n_kv_head) + ".");
  for (char c : s.window_pattern) {
    if (std::toupper(static_cast<unsigned char>(c)) != 'S' && std::toupper(static_cast<unsigned char>(c)) != 'L') {
      return invalid("Expected a window_pattern of S and L but received \"" + s.window_pattern.substr(0, 40) + "\".");
    }
  }
  if (s.window_pattern.size() > 1024) return invalid("Expected a window_pattern of at most 1024 letters.");
  if (!(s.softcap >= 0 && s.softcap < 1e6f) || !(s.rope_base >= 0 && s.rope_base < 1e12f) || !(s.norm_eps >= 0 && s.norm_eps < 1)) {
    return invalid("Expected finite positive numbers for the softcap, the rope base and the norm's epsilon.");
  }
  return {};
}

}  // namespace

bool parse_generation(const std::string& name, Generation* generation) {
  const char* names[] = {"G1", "G2", "G3", "G4", "G5", "G6", "HF"};
  for (int i = 0; i < 7; i++) {
    if (name == names[i]) { *generation = static_cast<Generation>(i); return true; }
  }
  return false;
}

Status make_config(const ModelSpec& s, ModelConfig* config) {
  Status status = check(s);
  if (!status.ok()) return status;
  ModelConfig c;
  c.generation = s.generation;
  c.sequence_len = s.sequence_len;
  c.vocab_size = s.vocab_size;
  c.n_layer = s.n_layer;
  c.n_head = s.n_head;
  c.n_kv_head = s.n_kv_head;
  c.n_embd = s.n_embd;
  c.head_dim = s.n_embd / s.n_head;
  c.mlp_hidden = s.mlp_hidden ? s.mlp_hidden : 4 * s.n_embd;
  c.rope_table_bf16 = s.rope_table_bf16;
  c.norm_eps = s.norm_eps > 0 ? s.norm_eps : 0x1p-23f;
  c.softcap = s.softcap > 0 ? s.softcap : 15.0f;

  const Generation g = s.generation;
  const bool is_hf = g == Generation::HF;
  const bool is_g5_or_g6 = g == Generation::G5 || g == Generation::G6;
  c.rope_base = s.rope_base > 0 ? s.rope_base : is_g5_or_g6 ? 1e5f : 1e4f;
  c.qk_scale = g == Generation::G6 ? 1.2f : g == Generation::G5 ? 1.15f : 1.0f;
  c.has_lambdas = !is_hf && g >= Generation::G2;
  c.has_smear = g == Generation::G6;
  if (g == Generation::G4) { c.ve_gate_channels = 32; c.ve_gate_scale = 2; }
  if (is_g5_or_g6) { c.ve_gate_channels = 12; c.ve_gate_scale = 3; }
  if (c.n_embd < c.ve_gate_channels || (c.has_smear && c.n_embd < kSmearChannels)) {
    return invalid("Expected n_embd of at least 32 for this generation but received " + std::to_string(c.n_embd) + ".");
  }

  const bool has_windows = !is_hf && g >= Generation::G3;
  c.windows.assign(c.n_layer, -1);
  if (has_windows) {
    const std::string pattern = s.window_pattern.empty() ? "L" : s.window_pattern;
    for (int l = 0; l < c.n_layer; l++) {
      const bool is_long = l == c.n_layer - 1 || std::toupper(static_cast<unsigned char>(pattern[l % pattern.size()])) == 'L';
      c.windows[l] = is_long ? c.sequence_len : short_window(g, c.sequence_len);
    }
  }
  *config = std::move(c);
  return {};
}

std::vector<TensorShape> tensor_table(const ModelConfig& c) {
  const int64_t C = c.n_embd, V = c.vocab_size, L = c.n_layer, q_dim = static_cast<int64_t>(c.n_head) * c.head_dim, kv_dim = c.kv_dim();
  std::vector<TensorShape> table;
  if (c.has_lambdas) {
    table.push_back({"resid_lambdas", {L}});
    table.push_back({"x0_lambdas", {L}});
  }
  if (c.has_smear) {
    table.push_back({"smear_gate.weight", {1, kSmearChannels}});
    table.push_back({"smear_lambda", {1}});
    table.push_back({"backout_lambda", {1}});
  }
  table.push_back({"transformer.wte.weight", {V, C}});
  for (int l = 0; l < c.n_layer; l++) {
    const std::string h = "transformer.h." + std::to_string(l);
    table.push_back({h + ".attn.c_q.weight", {q_dim, C}});
    table.push_back({h + ".attn.c_k.weight", {kv_dim, C}});
    table.push_back({h + ".attn.c_v.weight", {kv_dim, C}});
    table.push_back({h + ".attn.c_proj.weight", {C, C}});
    if (c.has_value_embedding(l)) table.push_back({h + ".attn.ve_gate.weight", {c.n_kv_head, c.ve_gate_channels}});
    table.push_back({h + ".mlp.c_fc.weight", {c.mlp_hidden, C}});
    table.push_back({h + ".mlp.c_proj.weight", {C, c.mlp_hidden}});
  }
  table.push_back({"lm_head.weight", {V, C}});
  for (int l = 0; l < c.n_layer; l++) {
    if (c.has_value_embedding(l)) table.push_back({"value_embeds." + std::to_string(l) + ".weight", {V, kv_dim}});
  }
  return table;
}

}  // namespace nanochat
