#include <napi.h>

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("info", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
    return Napi::Object::New(info.Env());
  }));
  return exports;
}

}  // namespace

NODE_API_MODULE(nanochat, init)
