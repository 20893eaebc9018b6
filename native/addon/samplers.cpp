#include "addon/samplers.h"

#include <algorithm>
#include <string>

#include "addon/arguments.h"

namespace nanochat {

namespace {

constexpr int64_t kMostInteger = int64_t{1} << 53;

// A copy, because a later getter could detach it.
template <class E> std::vector<E> read_array(const Napi::Value& value, const char* name, napi_typedarray_type type) {
  if (!is_array_of(value, type)) throw_status(value.Env(), Status::error("ERR_INVALID_ARG", std::string("Expected a typed array of another type for ") + name + "."));
  const auto array = value.As<Napi::TypedArrayOf<E>>();
  if (array.ElementLength() > static_cast<size_t>(kMostWidth)) throw_status(value.Env(), Status::error("ERR_INVALID_ARG", std::string("Expected at most 16777216 elements for ") + name + "."));
  return std::vector<E>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<int32_t> read_ids(const Napi::Value& value, const char* name, int vocab_size) {
  std::vector<int32_t> ids = read_array<int32_t>(value, name, napi_int32_array);
  const bool valid = std::all_of(ids.begin(), ids.end(), [&](int32_t id) { return id >= 0 && id < vocab_size; });
  if (!valid) throw_status(value.Env(), Status::error("ERR_INVALID_ARG", std::string("Expected token ids from 0 to ") + std::to_string(vocab_size - 1) + " for " + name + "."));
  return ids;
}

Sampler read_sampler(const Napi::Value& value, int vocab_size) {
  const Napi::Object o = expect_object(value, "sampler");
  SamplingParams params;
  params.temperature = expect_number(o.Get("temperature"), "temperature", 0, 1e38);
  params.top_k = expect_integer(o.Get("topK"), "topK", 0, kMostInteger);
  params.top_p = expect_number(o.Get("topP"), "topP", 0, 1);
  params.min_p = expect_number(o.Get("minP"), "minP", 0, 1);
  params.repetition_penalty = expect_number(o.Get("repetitionPenalty"), "repetitionPenalty", 1e-6, 1e6);
  params.seed = static_cast<uint64_t>(expect_integer(o.Get("seed"), "seed", 0, kMostInteger));
  const uint32_t row = static_cast<uint32_t>(expect_integer(o.Get("row"), "row", 0, UINT32_MAX));
  const std::vector<int32_t> ids = read_ids(o.Get("biasIds"), "biasIds", vocab_size);
  const std::vector<float> biases = read_array<float>(o.Get("biases"), "biases", napi_float32_array);
  if (ids.size() != biases.size()) throw_status(value.Env(), Status::error("ERR_INVALID_ARG", "Expected as many biases as biasIds."));
  for (size_t i = 0; i < ids.size(); i++) params.logit_bias.push_back({ids[i], biases[i]});
  return Sampler(std::move(params), row, read_ids(o.Get("seen"), "seen", vocab_size), vocab_size);
}

}  // namespace

std::vector<Sampler> read_samplers(const Napi::Value& value, int vocab_size) {
  if (!value.IsArray()) throw_status(value.Env(), Status::error("ERR_INVALID_ARG", "Expected an array for samplers."));
  const Napi::Array array = value.As<Napi::Array>();
  std::vector<Sampler> samplers;
  for (uint32_t i = 0; i < array.Length(); i++) samplers.push_back(read_sampler(array.Get(i), vocab_size));
  return samplers;
}

Napi::Value sample(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int V = static_cast<int>(expect_integer(info[1], "vocabSize", 1, kMostWidth));
  const int64_t position = expect_integer(info[2], "position", 0, UINT32_MAX);
  Sampler sampler = read_sampler(info[0], V);
  std::vector<float> logits = read_array<float>(info[3], "logits", napi_float32_array);
  if (logits.size() != static_cast<size_t>(V)) throw_status(env, Status::error("ERR_INVALID_ARG", "Expected vocabSize logits."));
  return Napi::Number::New(env, sampler.sample(logits.data(), position));
}

}  // namespace nanochat
