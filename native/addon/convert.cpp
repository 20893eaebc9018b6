#include "addon/convert.h"

#include <cmath>

#include "cpu/packed_file.h"

namespace nanochat {

Napi::Error make_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message);
  error.Set("code", Napi::String::New(env, status.code));
  return error;
}

void throw_status(Napi::Env env, const Status& status) { throw make_error(env, status); }

static void throw_expected(Napi::Env env, const std::string& what, const char* name) {
  throw_status(env, Status::error("ERR_INVALID_ARG", "Expected " + what + " for " + name + "."));
}

Napi::Object expect_object(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) throw_expected(value.Env(), "an object", name);
  return value.As<Napi::Object>();
}

std::string expect_string(const Napi::Value& value, const char* name) {
  if (!value.IsString()) throw_expected(value.Env(), "a string", name);
  return value.As<Napi::String>().Utf8Value();
}

double expect_number(const Napi::Value& value, const char* name, double least, double most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= least && number <= most)) throw_expected(value.Env(), "a number from " + std::to_string(least) + " to " + std::to_string(most), name);
  return number;
}

int64_t expect_integer(const Napi::Value& value, const char* name, int64_t least, int64_t most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= static_cast<double>(least) && number <= static_cast<double>(most)) || number != std::floor(number)) {
    throw_expected(value.Env(), "an integer from " + std::to_string(least) + " to " + std::to_string(most), name);
  }
  return static_cast<int64_t>(number);
}

const Kernels& expect_kernels(const Napi::Value& value) {
  const std::string isa = expect_string(value, "isa");
  const Kernels* kernels = find_kernels(isa.c_str());
  if (!kernels) throw_status(value.Env(), Status::error("ERR_INVALID_ARG", "Expected an instruction set of this machine for isa but received " + isa + "."));
  return *kernels;
}

ComputeType expect_compute_type(const Napi::Value& value) {
  const std::string dtype = expect_string(value, "dtype");
  if (dtype == "float32") return ComputeType::float32;
  if (dtype == "bfloat16") return ComputeType::bfloat16;
  if (dtype == "int8") return ComputeType::int8;
  if (dtype == "int4") return ComputeType::int4;
  throw_status(value.Env(), Status::error("ERR_INVALID_ARG", "Expected float32, bfloat16, int8 or int4 for dtype but received " + dtype + "."));
}

ModelSpec read_spec(const Napi::Value& value) {
  const Napi::Object o = expect_object(value, "spec");
  const Napi::Env env = value.Env();
  ModelSpec spec;
  const std::string generation = expect_string(o.Get("generation"), "spec.generation");
  if (!parse_generation(generation, &spec.generation)) throw_expected(env, "G1 to G6 or HF", "spec.generation");

  auto integer = [&](const char* key) { return static_cast<int>(expect_integer(o.Get(key), key, INT32_MIN, INT32_MAX)); };
  auto optional_number = [&](const char* key) {
    const Napi::Value v = o.Get(key);
    return v.IsUndefined() ? 0.0f : static_cast<float>(expect_number(v, key, 0, 1e30));
  };
  spec.sequence_len = integer("sequenceLen");
  spec.vocab_size = integer("vocabSize");
  spec.n_layer = integer("nLayer");
  spec.n_head = integer("nHead");
  spec.n_kv_head = integer("nKvHead");
  spec.n_embd = integer("nEmbd");
  if (!o.Get("mlpHidden").IsUndefined()) spec.mlp_hidden = integer("mlpHidden");
  spec.window_pattern = expect_string(o.Get("windowPattern"), "spec.windowPattern");
  spec.softcap = optional_number("softcap");
  spec.rope_base = optional_number("ropeBase");
  spec.norm_eps = optional_number("normEps");
  const Napi::Value table = o.Get("ropeTable");
  if (!table.IsUndefined()) {
    const std::string name = expect_string(table, "spec.ropeTable");
    if (name != "float32" && name != "bfloat16") throw_expected(env, "float32 or bfloat16", "spec.ropeTable");
    spec.rope_table_bf16 = name == "bfloat16";
  }
  return spec;
}

ModelConfig config_of(Napi::Env env, const ModelSpec& spec) {
  ModelConfig config;
  const Status status = make_config(spec, &config);
  if (!status.ok()) throw_status(env, status);
  return config;
}

Napi::Value describe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const ModelConfig config = config_of(env, read_spec(info[0]));

  Napi::Array windows = Napi::Array::New(env, config.windows.size());
  for (size_t l = 0; l < config.windows.size(); l++) windows.Set(l, config.windows[l]);
  Napi::Array tensors = Napi::Array::New(env);
  const auto add = [&](const std::string& name, const std::vector<int64_t>& dimensions) {
    Napi::Array shape = Napi::Array::New(env, dimensions.size());
    for (size_t d = 0; d < dimensions.size(); d++) shape.Set(d, static_cast<double>(dimensions[d]));
    Napi::Object tensor = Napi::Object::New(env);
    tensor.Set("name", name);
    tensor.Set("shape", shape);
    tensors.Set(tensors.Length(), tensor);
    return tensor;
  };
  if (info[1].IsUndefined()) {
    for (const TensorShape& tensor : tensor_table(config)) add(tensor.name, tensor.shape);
  } else {
    for (const PackedTensor& tensor : packed_tensors(config, expect_compute_type(info[1]), nullptr)) {
      const char* dtype = tensor.type == StoredType::f32 ? "float32" : tensor.type == StoredType::b16 ? "bfloat16" : "uint8";
      add(tensor.name, tensor.shape).Set("dtype", dtype);
    }
  }
  Napi::Object description = Napi::Object::New(env);
  description.Set("softcap", config.softcap);
  description.Set("ropeBase", config.rope_base);
  description.Set("qkScale", config.qk_scale);
  description.Set("windows", windows);
  description.Set("maxPositions", static_cast<double>(config.max_positions()));
  description.Set("tensors", tensors);
  return description;
}

}  // namespace nanochat
