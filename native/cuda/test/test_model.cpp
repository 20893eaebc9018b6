// Whole seeded models: against the twins put together in float64 order, whole against chunked, forked and drawn on the device.
#include <algorithm>

#include "cuda/forward.h"
#include "cuda/reference.h"
#include "cuda/seeded.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

const uint8_t never = 0;

// One sequence from its beginning, (T, V) logits: MODEL.md 1 from the twins, float32 weights.
std::vector<float> reference_logits(const ModelConfig& c, const Source& source, const std::vector<int32_t>& ids) {
  const int C = c.n_embd, D = c.head_dim, Dp = padded_head_dim(D), V = c.vocab_size;
  const int64_t T_ = static_cast<int64_t>(ids.size()), stride = pad_to(C, kRowUnit), wide = pad_to(c.mlp_hidden, kRowUnit);
  const auto matrix = [&](const std::vector<std::pair<std::string, int>>& parts, int k) {
    std::vector<float> out;
    for (const auto& part : parts) {
      std::vector<float> rows(static_cast<size_t>(part.second) * k);
      source.read(part.first, part.second, k, 0, part.second, rows.data());
      for (int r = 0; r < part.second; r++) {
        out.insert(out.end(), rows.begin() + int64_t{r} * k, rows.begin() + (int64_t{r} + 1) * k);
        out.resize(out.size() + static_cast<size_t>(pad_to(k, kRowUnit) - k), 0);
      }
    }
    return out;
  };
  const auto small = [&](const std::string& name, int64_t rows, int64_t columns) {
    std::vector<float> out(static_cast<size_t>(rows * columns));
    source.read(name, rows, columns, 0, rows, out.data());
    return out;
  };
  std::vector<Token> tokens;
  for (int64_t t = 0; t < T_; t++) tokens.push_back({ids[static_cast<size_t>(t)], t ? ids[static_cast<size_t>(t - 1)] : -1, static_cast<int32_t>(t), 0});
  std::vector<float> inv_freq;
  for (int i = 0; i < D / 2; i++) inv_freq.push_back(1.0f / static_cast<float>(std::pow(static_cast<double>(c.rope_base), static_cast<double>(2.0f * static_cast<float>(i) / static_cast<float>(D)))));
  const size_t slot_elements = static_cast<size_t>(2 * c.n_layer * c.n_kv_head * T_ * Dp);
  std::vector<float> slot(slot_elements), x(static_cast<size_t>(T_ * C)), x0 = x, mixed = x, backout = x, cos(static_cast<size_t>(T_ * D / 2)), sin = cos;
  std::vector<float> n(static_cast<size_t>(T_ * stride)), y = n, hidden(static_cast<size_t>(T_ * wide)), qkv(static_cast<size_t>(T_ * c.qkv_dim())), q(static_cast<size_t>(T_ * c.n_head * Dp));
  const Row row{slot.data(), T_};
  const auto product = [&](const std::vector<float>& w, const std::vector<float>& in, int64_t k, int outputs, Epilogue e, float* out, int64_t out_stride) {
    reference::matmul<float>({in.data(), w.data(), k, out, out_stride, static_cast<int>(T_), outputs, e, c.softcap, nullptr, nullptr});
  };

  const std::vector<float> wte = small("transformer.wte.weight", V, C), smear = small("smear_gate.weight", 1, 24);
  reference::rope_table({tokens.data(), inv_freq.data(), D / 2, false, cos.data(), sin.data()}, T_);
  reference::embed({tokens.data(), wte.data(), false, C, c.norm_eps, smear.data(), small("smear_lambda", 1, 1)[0], x.data(), x0.data()}, T_);
  for (int l = 0; l < c.n_layer; l++) {
    const std::string h = "transformer.h." + std::to_string(l);
    const float resid = small("resid_lambdas", 1, c.n_layer)[static_cast<size_t>(l)], x0_lambda = small("x0_lambdas", 1, c.n_layer)[static_cast<size_t>(l)];
    reference::mix_norm<float>({x.data(), x0.data(), resid, x0_lambda, mixed.data(), nullptr, C, c.norm_eps, n.data(), stride}, T_);
    std::swap(x, mixed);
    product(matrix({{h + ".attn.c_q.weight", C}, {h + ".attn.c_k.weight", c.kv_dim()}, {h + ".attn.c_v.weight", c.kv_dim()}}, C), n, stride, c.qkv_dim(), Epilogue::store, qkv.data(), c.qkv_dim());
    std::vector<float> embeds, gate;
    if (c.has_value_embedding(l)) {
      embeds = small("value_embeds." + std::to_string(l) + ".weight", V, c.kv_dim());
      gate = small(h + ".attn.ve_gate.weight", c.n_kv_head, c.ve_gate_channels);
    }
    reference::append_kv<float>({tokens.data(), &row, qkv.data(), cos.data(), sin.data(), c.n_head, c.n_kv_head, D, Dp, l, c.norm_eps, c.qk_scale, q.data(),
                                 embeds.empty() ? nullptr : embeds.data(), false, gate.data(), c.ve_gate_channels, c.ve_gate_scale, n.data(), stride}, T_);
    reference::attention<float>({tokens.data(), &row, q.data(), c.n_head, c.n_kv_head, D, Dp, l, c.windows[static_cast<size_t>(l)], 1 / std::sqrt(static_cast<float>(D)), nullptr, nullptr, nullptr,
                                 y.data(), stride}, T_);
    product(matrix({{h + ".attn.c_proj.weight", C}}, C), y, stride, C, Epilogue::add, x.data(), C);
    reference::mix_norm<float>({x.data(), nullptr, 1, 0, nullptr, nullptr, C, c.norm_eps, n.data(), stride}, T_);
    product(matrix({{h + ".mlp.c_fc.weight", c.mlp_hidden}}, C), n, stride, c.mlp_hidden, Epilogue::relu2, hidden.data(), wide);
    product(matrix({{h + ".mlp.c_proj.weight", C}}, c.mlp_hidden), hidden, wide, C, Epilogue::add, x.data(), C);
    if (l == c.n_layer / 2) backout = x;
  }
  reference::mix_norm<float>({x.data(), backout.data(), 1, -small("backout_lambda", 1, 1)[0], nullptr, nullptr, C, c.norm_eps, n.data(), stride}, T_);
  std::vector<float> logits(static_cast<size_t>(T_ * V));
  product(matrix({{"lm_head.weight", V}}, C), n, stride, V, Epilogue::softcap, logits.data(), V);
  return logits;
}

struct Tested {
  std::unique_ptr<Model> model;
  std::string what;
  double tolerance;
  int V() const { return model->config().vocab_size; }

  std::vector<float> append(Sequence& sequence, const std::vector<int32_t>& ids) {
    std::vector<float> out(ids.size() * static_cast<size_t>(V()));
    const Status status = model->forward({{&sequence, ids.data(), static_cast<int64_t>(ids.size()), WantedLogits::all}}, out.data(), &never);
    expect(status.ok(), what + ": " + status.message);
    return out;
  }
};

std::vector<float> rows_of(const std::vector<float>& logits, int V, int64_t from, int64_t count) {
  return {logits.begin() + from * V, logits.begin() + (from + count) * V};
}

void check_chunks(Tested& m, const std::vector<int32_t>& ids, const std::vector<float>& whole) {
  Sequence chunked(m.model->slots());
  std::unique_ptr<Sequence> fork;
  for (int count : {1, 2, 5, 64, 3, 1}) {
    const int64_t from = chunked.length();
    const std::vector<int32_t> chunk(ids.begin() + from, ids.begin() + from + count);
    if (from == 8) fork = chunked.fork();
    expect_near(m.append(chunked, chunk), rows_of(whole, m.V(), from, count), m.tolerance, m.what + ": chunk of " + std::to_string(count));
  }
  expect_near(m.append(*fork, {ids[8], ids[9]}), rows_of(whole, m.V(), 8, 2), m.tolerance, m.what + ": a fork");
  chunked.truncate(30);
  expect_near(m.append(chunked, {ids[30]}), rows_of(whole, m.V(), 30, 1), m.tolerance, m.what + ": truncated");
}

// Steps drawn on the device: the same when replayed, and greedy rows take the argmax of what forward says.
void check_draws(Tested& m, const std::vector<int32_t>& ids) {
  std::vector<std::vector<int32_t>> first;
  for (int round = 0; round < 3; round++) {
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<BatchRow> rows;
    std::vector<Draw> draws;
    for (int r = 0; r < 3; r++) sequences.push_back(std::make_unique<Sequence>(m.model->slots()));
    for (int r = 0; r < 3; r++) {
      rows.push_back({sequences[static_cast<size_t>(r)].get(), ids.data() + r, 7 - 3 * r, WantedLogits::last});
      draws.push_back({r == 0 ? 0.0f : 0.8f, r == 2 ? 20 : 0, 42, 7, r, 6 + r, 0});
    }
    std::vector<std::vector<int32_t>> drawn;
    const Status status = m.model->decode(rows, draws, {}, &drawn, &never);
    expect(status.ok(), m.what + ": " + status.message);
    if (round == 0) first = drawn;
    expect(drawn == first && drawn.size() == 3 && drawn[2].size() == 8, m.what + ": the same draws every time");
    expect(sequences[0]->length() == 7 + 5, m.what + ": all tokens but the last are in the sequence");
    if (round > 0) continue;
    std::vector<int32_t> all(ids.begin(), ids.begin() + 7);
    all.insert(all.end(), drawn[0].begin(), drawn[0].end());
    Sequence again(m.model->slots());
    const std::vector<float> logits = m.append(again, all);
    for (size_t i = 0; i < drawn[0].size(); i++) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>((6 + i) * static_cast<size_t>(m.V()));
      expect(row[drawn[0][i]] >= *std::max_element(row, row + m.V()) - 10 * m.tolerance, m.what + ": greedy takes the largest logit");
    }
  }
}

// Steps that are one kernel each, where that fits on the device.
void check_steps(Tested& m, const std::vector<int32_t>& ids, const std::vector<float>& expected, double tolerance) {
  m.model->set_persistent(true);
  Sequence sequence(m.model->slots());
  for (int t = 0; t < 6; t++) expect_near(m.append(sequence, {ids[static_cast<size_t>(t)]}), rows_of(expected, m.V(), t, 1), tolerance, m.what + ": one kernel against the reference");
  m.model->set_persistent(false);
}

void check_model(const ModelSpec& spec, bool is_bf16) {
  ModelConfig config;
  expect(make_config(spec, &config).ok(), "a legal configuration");
  const auto tensors = TensorSource::seeded(1);
  const Source source = seeded_source(*tensors);
  Tested m{nullptr, std::string("model of ") + std::to_string(spec.n_embd) + (is_bf16 ? " bfloat16" : " float32"), is_bf16 ? 1e-2 : 1e-5};
  const Status status = load_model(0, config, is_bf16, source, &m.model);
  expect(status.ok(), m.what + ": " + status.message);
  if (!status.ok()) return;
  std::vector<int32_t> ids;
  for (int t = 0; t < 80; t++) ids.push_back(static_cast<int32_t>(random_bits() % static_cast<unsigned>(config.vocab_size)));
  Sequence sequence(m.model->slots());
  const std::vector<float> whole = m.append(sequence, ids);
  const std::vector<float> expected = reference_logits(config, source, ids);
  const double tolerance = is_bf16 ? 3e-2 : 1e-5;
  expect_near(whole, expected, tolerance, m.what + ": the reference");
  check_steps(m, ids, expected, tolerance);
  check_chunks(m, ids, whole);
  check_draws(m, ids);
}

}  // namespace

void test_model() {
  ModelSpec toy;
  toy.sequence_len = 40;
  toy.vocab_size = 131;
  toy.n_layer = 4;
  toy.n_head = 4;
  toy.n_kv_head = 2;
  toy.n_embd = 64;
  toy.window_pattern = "SSL";
  for (bool is_bf16 : {false, true}) {
    check_model(toy, is_bf16);
#ifndef NC_EMULATION
    ModelSpec wide = toy;  // nanochat's own widths
    wide.sequence_len = 2048;
    wide.vocab_size = 4099;
    for (int heads : {6, 10, 16}) {
      wide.n_head = wide.n_kv_head = heads;
      wide.n_embd = 128 * heads;
      wide.n_layer = 2;
      check_model(wide, is_bf16);
    }
#endif
  }
}

}  // namespace cuda
}  // namespace nanochat
