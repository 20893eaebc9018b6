// Samplers from JavaScript (lib/native.ts: NativeSampler).
#pragma once
#include <napi.h>

#include <vector>

#include "cpu/sampler.h"

namespace nanochat {

std::vector<Sampler> read_samplers(const Napi::Value& value, int vocab_size);

// sample(sampler, vocabSize, position, logits) -> the token
Napi::Value sample(const Napi::CallbackInfo& info);

}  // namespace nanochat
