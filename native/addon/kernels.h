// The CPU kernels one by one (lib/native.ts: NativeKernels), for micro-benchmarks and tests.
#pragma once
#include <napi.h>

namespace nanochat {

// An object of the functions below and the kernels along one row. Each but packMatrix takes the instruction set, the number
// of repetitions, a shape and its arrays, the output last; it fills the output and returns nanoseconds.
Napi::Object make_kernels(Napi::Env env);

// packMatrix(outputs, k, w, dtype) -> a handle
Napi::Value pack_matrix(const Napi::CallbackInfo& info);

// matmul(isa, repeat, rows, epilogue, cap, packed, x, y)
Napi::Value matmul(const Napi::CallbackInfo& info);

// flashAttention(isa, repeat, heads, kvHeads, headDim, queries, keys, firstPosition, firstKey, window, scale, q, k, v, out)
Napi::Value flash_attention(const Napi::CallbackInfo& info);

// appendKvCache(isa, repeat, keys, kvHeads, headDim, firstSlot, k, v, pages)
Napi::Value append_kv_cache(const Napi::CallbackInfo& info);

}  // namespace nanochat
