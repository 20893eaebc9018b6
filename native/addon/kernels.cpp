#include "addon/kernels.h"

#include <algorithm>
#include <new>

#include "addon/arguments.h"

namespace nanochat {

namespace {

// rotary(isa, repeat, rows, heads, headDim, eps, scale, x, cos, sin, out); x, out (rows, heads, D); cos, sin (rows, D / 2)
Napi::Value rotary(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat(), rows = args.rows();
  const int H = args.integer("heads", 1, 4096), D = args.head_dim();
  const float eps = args.number("eps"), scale = args.number("scale");
  const float* x = args.array<float>("x", rows * H * D);
  const float* cos = args.array<float>("cos", rows * D / 2);
  const float* sin = args.array<float>("sin", rows * D / 2);
  float* out = args.array<float>("out", rows * H * D);
  return timed(info.Env(), repeat, [&] {
    for (int64_t i = 0; i < rows * H; i++) {
      std::copy_n(x + i * D, D, out + i * D);
      kernels.rope_norm(out + i * D, cos + i / H * (D / 2), sin + i / H * (D / 2), D, eps, scale);
    }
  });
}

// rmsNorm(isa, repeat, rows, width, eps, x, out)
Napi::Value rms_norm(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat(), rows = args.rows();
  const int C = args.integer("width", 1, kMostWidth);
  const float eps = args.number("eps");
  const float* x = args.array<float>("x", rows * C);
  return with_type_of(args.at(6), [&](auto element) {
    using T = decltype(element);
    T* out = args.array<T>("out", rows * C);
    return timed(info.Env(), repeat, [&] {
      for (int64_t r = 0; r < rows; r++) kernels.of<T>().rms_norm(x + r * C, C, eps, out + r * C);
    });
  });
}

// embed(isa, repeat, rows, width, eps, table rows, out)
Napi::Value embed(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat(), rows = args.rows();
  const int C = args.integer("width", 1, kMostWidth);
  const float eps = args.number("eps");
  return with_type_of(args.at(5), [&](auto element) {
    using E = decltype(element);
    const E* table = args.array<E>("rows", rows * C);
    float* out = args.array<float>("out", rows * C);
    return timed(info.Env(), repeat, [&] {
      for (int64_t r = 0; r < rows; r++) kernels.embed(table + r * C, std::is_same<E, bf16>::value, C, eps, out + r * C);
    });
  });
}

// mix(isa, repeat, count, resid, x0Lambda, x, x0, out)
Napi::Value mix(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat();
  const int count = args.integer("count", 1, 1 << 30);
  const float resid = args.number("residLambda"), x0_lambda = args.number("x0Lambda");
  const float* x = args.array<float>("x", count);
  const float* x0 = args.array<float>("x0", count);
  float* out = args.array<float>("out", count);
  return timed(info.Env(), repeat, [&] {
    std::copy_n(x, count, out);
    kernels.mix(out, x0, count, resid, x0_lambda);
  });
}

// gatedValueEmbedding(isa, repeat, rows, kvHeads, headDim, gateChannels, gateScale, v, valueEmbeds, veGate, n, out)
Napi::Value gated_value(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat(), rows = args.rows();
  const int K = args.integer("kvHeads", 1, 4096), D = args.head_dim(), g = args.integer("gateChannels", 1, 4096);
  const float m = args.number("gateScale");
  const float* v = args.array<float>("v", rows * K * D);
  return with_type_of(args.at(8), [&](auto value) {
    using E = decltype(value);
    const E* values = args.array<E>("valueEmbeds", rows * K * D);
    const float* gate = args.array<float>("veGate", static_cast<int64_t>(K) * g);
    return with_type_of(args.at(10), [&](auto element) {
      using T = decltype(element);
      const T* n = args.array<T>("n", rows * g);
      float* out = args.array<float>("out", rows * K * D);
      return timed(info.Env(), repeat, [&] {
        std::copy_n(v, rows * K * D, out);
        for (int64_t i = 0; i < rows * K; i++) {
          kernels.of<T>().gated_value(out + i * D, values + i * D, std::is_same<E, bf16>::value, D, gate + i % K * g, n + i / K * g, g, m);
        }
      });
    });
  });
}

// convert(isa, repeat, count, x, out)
Napi::Value convert(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat(), count = args.rows("count");
  if (count > INT32_MAX) throw_status(info.Env(), Status::error("ERR_INVALID_ARG", "Expected at most 2147483647 for count."));
  const float* x = args.array<float>("x", count);
  return with_type_of(args.at(4), [&](auto element) {
    using T = decltype(element);
    T* out = args.array<T>("out", count);
    return timed(info.Env(), repeat, [&] { kernels.of<T>().convert(x, count, out); });
  });
}

template <Napi::Value (*function)(const Napi::CallbackInfo&)> Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const std::bad_alloc&) {
    throw_status(info.Env(), Status::error("ERR_OUT_OF_MEMORY", "Not enough memory for this kernel's buffers. Use a smaller shape."));
  }
}

}  // namespace

Napi::Object make_kernels(Napi::Env env) {
  Napi::Object kernels = Napi::Object::New(env);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) { kernels.Set(name, Napi::Function::New(env, function, name)); };
  add("packMatrix", guarded<pack_matrix>);
  add("matmul", guarded<matmul>);
  add("flashAttention", guarded<flash_attention>);
  add("appendKvCache", guarded<append_kv_cache>);
  add("rotary", guarded<rotary>);
  add("rmsNorm", guarded<rms_norm>);
  add("embed", guarded<embed>);
  add("mix", guarded<mix>);
  add("gatedValueEmbedding", guarded<gated_value>);
  add("convert", guarded<convert>);
  return kernels;
}

}  // namespace nanochat
