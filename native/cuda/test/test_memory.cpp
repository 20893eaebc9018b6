// memory.h against what the emulated device has allocated: never less, and not much more.
#include "cuda/forward.h"
#include "cuda/seeded.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

const uint8_t never = 0;

void check_model(ModelSpec spec, bool is_bf16, int64_t T_) {
  const std::string what = "memory: " + std::to_string(spec.n_embd) + (is_bf16 ? " bfloat16, " : " float32, ") + std::to_string(T_) + " tokens";
  const int64_t item = is_bf16 ? 2 : 4, before = stream->free_bytes();
  ModelConfig c;
  std::unique_ptr<Model> model;
  const auto tensors = TensorSource::seeded(1);
  Status status = make_config(spec, &c);
  if (status.ok()) status = load_model(0, c, is_bf16, seeded_source(*tensors), &model);
  expect(status.ok(), what + ": " + status.message);
  if (!status.ok()) return;
  const int64_t loaded = before - stream->free_bytes(), weights = model->memory_bytes();
  expect(loaded >= weights && loaded <= weights + 4096, what + ": weights of " + std::to_string(weights) + " bytes take " + std::to_string(loaded));

  Sequence sequence(model->slots());
  const std::vector<int32_t> ids(static_cast<size_t>(T_), 1);
  std::vector<float> logits(static_cast<size_t>(c.vocab_size));
  std::vector<std::vector<int32_t>> drawn;
  status = model->forward({{&sequence, ids.data(), T_, WantedLogits::last}}, logits.data(), &never);
  if (status.ok()) status = model->decode({{&sequence, ids.data(), 1, WantedLogits::last}}, {{1, 0, 42, 0, 0, 3, 0}}, {}, &drawn, &never);
  expect(status.ok(), what + ": " + status.message);
  const int64_t slots = model->slots()->bytes_in_use, used = before - stream->free_bytes() - loaded - slots, expected = working_bytes(c, item, T_, stream->processors());
  expect(used <= expected && expected <= used + (1 << 20), what + ": a pass was expected to take " + std::to_string(expected) + " bytes and takes " + std::to_string(used));
  expect(slots % kv_bytes_per_token(c, item) == 0 && slots >= sequence.length() * kv_bytes_per_token(c, item), what + ": a slot of " + std::to_string(slots) + " bytes");
}

// A device with too little says what is needed.
void check_limit(ModelSpec spec) {
  ModelConfig c;
  make_config(spec, &c);
  std::unique_ptr<Model> model;
  const auto tensors = TensorSource::seeded(1);
  setenv("NANOCHAT_EMULATION_MEMORY_MB", "8", 1);
  const Status status = load_model(0, c, true, seeded_source(*tensors), &model);
  unsetenv("NANOCHAT_EMULATION_MEMORY_MB");
  expect(status.code == std::string("ERR_OUT_OF_MEMORY") && status.message.find("one context 1 MB) and ") != std::string::npos, "memory: too little, but got \"" + status.message + "\"");
}

}  // namespace

void test_memory() {
  ModelSpec spec;
  spec.sequence_len = 64;
  spec.vocab_size = 2000;
  spec.n_layer = 2;
  spec.n_embd = 192;
  spec.n_head = 3;
  spec.n_kv_head = 1;
  spec.window_pattern = "SL";
  for (bool is_bf16 : {false, true}) for (int64_t T_ : {1, 40}) check_model(spec, is_bf16, T_);
  check_model(spec, true, 270);
  check_limit(spec);
  spec.n_embd = 90;  // rows and heads that are padded
  check_model(spec, true, 100);
}

}  // namespace cuda
}  // namespace nanochat
