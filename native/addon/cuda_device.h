// The CUDA devices of this machine as JavaScript sees them (lib/native.ts). All but cuda_needs work off the JavaScript thread.
#pragma once
#include <napi.h>

namespace nanochat {

Napi::Value cuda_devices(const Napi::CallbackInfo& info);      // () -> promise
Napi::Value cuda_free_memory(const Napi::CallbackInfo& info);  // (device) -> promise
Napi::Value cuda_probe(const Napi::CallbackInfo& info);        // (device) -> promise
Napi::Value cuda_needs(const Napi::CallbackInfo& info);        // (spec, dtype, narrow)

}  // namespace nanochat
