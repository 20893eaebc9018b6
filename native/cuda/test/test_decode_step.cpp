// A step that is one kernel against the kernels one by one: models of several generations and shapes, token by token from
// contexts on both sides of a split's border, and drawn in captured steps.
#include "cuda/forward.h"
#include "cuda/seeded.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

const uint8_t never = 0;

struct Case {
  Generation generation;
  int heads, kv_heads, head_dim, layers, hidden;  // 0: 4 * n_embd
  const char* windows;
};

struct Stepped {
  std::unique_ptr<Model> model;
  std::string what;
  double tolerance;

  std::vector<float> append(Sequence& sequence, const std::vector<int32_t>& ids, bool is_persistent, WantedLogits logits = WantedLogits::all) {
    model->set_persistent(is_persistent);
    std::vector<float> out(ids.size() * static_cast<size_t>(model->config().vocab_size));
    const Status status = model->forward({{&sequence, ids.data(), static_cast<int64_t>(ids.size()), logits}}, out.data(), &never);
    expect(status.ok(), what + ": " + status.message);
    return out;
  }

  std::vector<int32_t> draw(const Sequence& from, int32_t id, float temperature, int steps, bool is_persistent) {
    model->set_persistent(is_persistent);
    const std::unique_ptr<Sequence> sequence = from.fork();
    std::vector<std::vector<int32_t>> drawn;
    const Status status = model->decode({{sequence.get(), &id, 1, WantedLogits::last}}, {Draw{temperature, 0, 42, 7, 0, steps, 0}}, {}, &drawn, &never);
    expect(status.ok() && drawn.size() == 1, what + ": " + status.message);
    return status.ok() ? drawn[0] : std::vector<int32_t>();
  }
};

// Steps at positions [from, from + count), after what the kernels one by one made of the tokens before.
void check_steps(Stepped& m, const std::vector<int32_t>& ids, int from, int count) {
  const std::string what = m.what + " at " + std::to_string(from);
  Sequence before(m.model->slots());
  if (from > 0) m.append(before, {ids.begin(), ids.begin() + from}, false, WantedLogits::none);
  const auto apart = before.fork(), together = before.fork(), again = before.fork();
  for (int t = from; t < from + count; t++) {
    const std::vector<int32_t> id = {ids[static_cast<size_t>(t)]};
    const std::vector<float> expected = m.append(*apart, id, false), logits = m.append(*together, id, true);
    expect(m.model->was_persistent() || stream->shared_bytes() < 227 << 10, what + ": one kernel where there is Hopper's shared memory");
    if (!m.model->was_persistent()) {
      std::printf("SKIP %s: the kernel does not fit on this device\n", what.c_str());
      return;
    }
    expect_near(logits, expected, m.tolerance, what + ": step " + std::to_string(t - from));
    expect(m.append(*again, id, true) == logits, what + ": the same bits every time");
  }
  // what the steps appended to the cache is what the kernels one by one would have
  const std::vector<int32_t> next = {ids[0]};
  expect_near(m.append(*together, next, false), m.append(*apart, next, false), m.tolerance, what + ": keys and values");
}

void check_case(const Case& c, bool is_bf16, const std::vector<int>& starts, int count) {
  ModelSpec spec;
  spec.generation = c.generation;
  spec.sequence_len = 160;
  spec.vocab_size = 131;
  spec.n_layer = c.layers;
  spec.n_head = c.heads;
  spec.n_kv_head = c.kv_heads;
  spec.n_embd = c.heads * c.head_dim;
  spec.mlp_hidden = c.hidden;
  spec.window_pattern = c.windows;
  ModelConfig config;
  expect(make_config(spec, &config).ok(), "a legal configuration");
  const auto tensors = TensorSource::seeded(1);
  Stepped m{nullptr, "steps of generation " + std::to_string(static_cast<int>(c.generation)) + ", " + std::to_string(c.heads) + " heads of " + std::to_string(c.head_dim) + (is_bf16 ? " bfloat16" : " float32"),
            is_bf16 ? 1e-2 : 1e-5};
  const Status status = load_model(0, config, is_bf16, seeded_source(*tensors), &m.model);
  expect(status.ok(), m.what + ": " + status.message);
  if (!status.ok()) return;
  std::mt19937 bits(7);  // note: always the same tokens, so that no draw is a close call now and then
  std::vector<int32_t> ids;
  for (int t = 0; t < 1500; t++) ids.push_back(static_cast<int32_t>(bits() % 131));
  for (int from : starts) check_steps(m, ids, from, count);

  Sequence prompt(m.model->slots());
  m.append(prompt, {ids.begin(), ids.begin() + starts.back()}, false, WantedLogits::none);
  const std::vector<int32_t> expected = m.draw(prompt, 5, 0.8f, 3, false);
  for (int round = 0; round < 2; round++) expect(m.draw(prompt, 5, 0.8f, 3, true) == expected, m.what + ": the same tokens");
}

const Case kSmeared = {Generation::G6, 4, 2, 16, 4, 0, "SSL"}, kWide = {Generation::G6, 2, 1, 128, 1, 0, "L"};

}  // namespace

// note: on the emulated device some of these have more heads than blocks, some many blocks per head, some blocks without outputs.
void test_decode_step() {
  for (bool is_bf16 : {false, true}) {
    check_case(kSmeared, is_bf16, {0, 63}, 2);
    check_case(kWide, is_bf16, {127}, 2);
    check_case({Generation::G5, 3, 3, 64, 1, 0, "L"}, is_bf16, {63}, 2);
    check_case({Generation::G4, 3, 1, 22, 2, 150, "S"}, is_bf16, {90}, 2);
    check_case({Generation::G1, 1, 1, 40, 2, 0, ""}, is_bf16, {255}, 2);
    check_case({Generation::HF, 5, 5, 16, 1, 100, ""}, is_bf16, {3}, 2);
#ifndef NC_EMULATION
    for (int heads : {6, 10, 16}) check_case({Generation::G1, heads, heads, 128, 2, 0, ""}, is_bf16, {63, 1029, 1400}, 4);
    for (int heads : {6, 10, 16}) check_case({Generation::G6, heads, heads, 128, 2, 0, "SL"}, is_bf16, {0, 200}, 4);
#endif
  }
}

void test_one_step() {
  check_case(kSmeared, true, {200}, 1);
  check_case(kWide, false, {126}, 1);
}

}  // namespace cuda
}  // namespace nanochat
