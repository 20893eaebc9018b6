// The machine's limits for JavaScript (lib/native.ts: MachineLimits).
#pragma once
#include <napi.h>

namespace nanochat {

// probe(threads, isa?, readBytes?) -> promise of an array, one entry for each number of threads
Napi::Value probe(const Napi::CallbackInfo& info);

}  // namespace nanochat
