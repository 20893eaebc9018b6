// JavaScript's thread and a thread of an addon's own write a number, without a lock. ThreadSanitizer must report it in node,
// whatever tsan.supp hides; else its silence about the addon says nothing.
#include <napi.h>

#include <thread>

namespace {

int number = 0;

Napi::Value write_twice(const Napi::CallbackInfo& info) {
  std::thread other([] { number++; });
  number++;
  other.join();
  return Napi::Number::New(info.Env(), number);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("writeTwice", Napi::Function::New(env, write_twice));
  return exports;
}

}  // namespace

NODE_API_MODULE(planted_race, init)
