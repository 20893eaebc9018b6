// The arguments of a kernel's JavaScript function, read in order and each checked: instruction set, repeat, shape, arrays.
#pragma once
#include <napi.h>

#include <chrono>
#include <string>
#include <type_traits>

#include "addon/convert.h"
#include "cpu/kernels.h"

namespace nanochat {

constexpr int kMostWidth = 1 << 24;
constexpr int64_t kMostRows = int64_t{1} << 31;

inline bool is_array_of(const Napi::Value& value, napi_typedarray_type type) { return value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == type; }

// Calls f with a bf16 where the array is a Uint16Array, else with a float.
template <class F> auto with_type_of(const Napi::Value& array, F f) { return is_array_of(array, napi_uint16_array) ? f(bf16{}) : f(0.0f); }

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info) {}

  Napi::Env env() const { return info_.Env(); }
  Napi::Value next() { return info_[next_++]; }
  Napi::Value at(size_t index) const { return info_[index]; }
  [[noreturn]] void invalid(const std::string& message) const { throw_status(env(), Status::error("ERR_INVALID_ARG", message)); }

  const Kernels& kernels() { return expect_kernels(next()); }
  int64_t repeat() { return expect_integer(next(), "repeat", 1, int64_t{1} << 40); }
  int64_t rows(const char* name = "rows") { return expect_integer(next(), name, 1, kMostRows); }
  int integer(const char* name, int least, int most) { return static_cast<int>(expect_integer(next(), name, least, most)); }
  float number(const char* name) { return static_cast<float>(expect_number(next(), name, -3e38, 3e38)); }
  int head_dim() {
    const int D = integer("headDim", 2, 1024);
    if (D % 2 != 0) invalid("Expected an even headDim.");
    return D;
  }

  // The data of a typed array of exactly `count` > 0 elements; a detached one has none.
  template <class E> E* array(const char* name, int64_t count) {
    const Napi::Value value = next();
    const bool is_bf16 = std::is_same<E, bf16>::value;
    if (!is_array_of(value, is_bf16 ? napi_uint16_array : napi_float32_array)) invalid(std::string("Expected a ") + (is_bf16 ? "Uint16Array" : "Float32Array") + " for " + name + ".");
    const Napi::TypedArray array = value.As<Napi::TypedArray>();
    if (static_cast<int64_t>(array.ElementLength()) != count) {
      invalid("Expected " + std::to_string(count) + " elements for " + name + " but received " + std::to_string(array.ElementLength()) + ".");
    }
    // note: not by way of the buffer, which Node-API cannot open when it is shared
    void* data = nullptr;
    if (napi_get_typedarray_info(env(), value, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok || !data) invalid(std::string("Expected readable memory for ") + name + ".");
    return static_cast<E*>(data);
  }

 private:
  const Napi::CallbackInfo& info_;
  size_t next_ = 0;
};

// Calls f `repeat` times and returns the nanoseconds that took.
template <class F> Napi::Value timed(Napi::Env env, int64_t repeat, const F& f) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < repeat; i++) f();
  const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
  return Napi::Number::New(env, elapsed.count());
}

}  // namespace nanochat
