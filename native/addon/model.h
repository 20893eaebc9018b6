// The model and its sequences as JavaScript objects (lib/native.ts: NativeModel, NativeSequence).
#pragma once
#include <napi.h>

namespace nanochat {

// load(spec, tensors, files, options) and seeded(spec, seed, options), both -> { promise, cancel }
Napi::Value load(const Napi::CallbackInfo& info);
Napi::Value seeded(const Napi::CallbackInfo& info);
Napi::Value machine_info(const Napi::CallbackInfo& info);
Napi::Value available_memory(const Napi::CallbackInfo& info);

void init_model(Napi::Env env);

}  // namespace nanochat
