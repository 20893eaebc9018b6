// Between JavaScript values and the addon's own structs. Every reader checks and says what it expected.
#pragma once
#include <napi.h>

#include <string>

#include "cpu/kernels.h"
#include "cpu/weights.h"
#include "model/config.h"

namespace nanochat {

// Throws a JavaScript error with a code, as a C++ exception that node-addon-api hands on.
[[noreturn]] void throw_status(Napi::Env env, const Status& status);
Napi::Error make_error(Napi::Env env, const Status& status);

ModelSpec read_spec(const Napi::Value& value);
// What the spec describes; throws what make_config says of it.
ModelConfig config_of(Napi::Env env, const ModelSpec& spec);
Napi::Value describe(const Napi::CallbackInfo& info);

Napi::Object expect_object(const Napi::Value& value, const char* name);
std::string expect_string(const Napi::Value& value, const char* name);
double expect_number(const Napi::Value& value, const char* name, double least, double most);
// The kernels of the instruction set that `value` names.
const Kernels& expect_kernels(const Napi::Value& value);
ComputeType expect_compute_type(const Napi::Value& value);
int64_t expect_integer(const Napi::Value& value, const char* name, int64_t least, int64_t most);

}  // namespace nanochat
