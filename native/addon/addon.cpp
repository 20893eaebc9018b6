#include <napi.h>

#include "addon/convert.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("describe", Napi::Function::New(env, nanochat::describe, "describe"));
  return exports;
}

NODE_API_MODULE(nanochat, init)
