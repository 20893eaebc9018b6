// The harness of the kernel tests: arrays that live on both sides, comparisons that NaN never passes, a count at the end.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "model/bf16.h"

namespace nanochat {
namespace cuda {

extern std::shared_ptr<Stream> stream;  // of all tests
extern std::mt19937 random_bits;
extern int checks, failures;

inline void expect(bool holds, const std::string& what) {
  checks++;
  if (holds) return;
  failures++;
  std::printf("FAIL %s\n", what.c_str());
}

// What the device reports must be nothing, or must contain `text`.
void expect_status(const char* text, const std::string& what);

// ||out - expected|| / ||expected||
double relative_error(const std::vector<float>& out, const std::vector<float>& expected);
void expect_near(const std::vector<float>& out, const std::vector<float>& expected, double tolerance, const std::string& what);

enum class Side { host, device };

// Elements on the host for the reference and, once uploaded, on the device for the kernel.
template <class T> class Array {
 public:
  explicit Array(size_t count) : host_(count) { std::memset(static_cast<void*>(host_.data()), 0xff, count * sizeof(T)); }
  explicit Array(std::vector<T> values) : host_(std::move(values)) {}
  T& operator[](size_t i) { return host_[i]; }
  size_t size() const { return host_.size(); }
  std::vector<T>& host() { return host_; }
  T* at(Side side) {
    if (side == Side::host) return host_.data();
    if (!device_.bytes()) upload();
    return device_.as<T>();
  }
  // What the kernel left, as floats.
  std::vector<float> read() const;
  std::vector<float> expected() const { return widened(host_); }
  std::vector<T> read_raw() const {
    std::vector<T> out(host_.size());
    stream->to_host(out.data(), device_.template as<T>(), out.size() * sizeof(T));
    stream->synchronize();
    return out;
  }
  void upload() {
    if (!device_.bytes()) device_ = Memory(stream, host_.size() * sizeof(T));
    stream->to_device(device_.template as<T>(), host_.data(), host_.size() * sizeof(T));
    stream->synchronize();
  }

 private:
  static std::vector<float> widened(const std::vector<T>& values) {
    std::vector<float> out;
    for (const T& v : values) out.push_back(to_float(v));
    return out;
  }
  std::vector<T> host_;
  Memory device_;
};

template <class T> std::vector<float> Array<T>::read() const { return widened(read_raw()); }

template <class T> std::vector<T> noise(size_t count, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<T> out;
  for (size_t i = 0; i < count; i++) out.push_back(from_float<T>(normal(random_bits)));
  return out;
}

// (rows, stride) of noise in the first `width` of each row, zeros beyond.
template <class T> std::vector<T> padded_noise(int64_t rows, int64_t width, int64_t stride, float scale = 1) {
  std::vector<T> out;
  for (int64_t r = 0; r < rows; r++) {
    const std::vector<T> row = noise<T>(static_cast<size_t>(width), scale);
    out.insert(out.end(), row.begin(), row.end());
    out.resize(static_cast<size_t>((r + 1) * stride), from_float<T>(0));
  }
  return out;
}

template <class T> const char* type_name() { return sizeof(T) == 2 ? "bfloat16" : "float32"; }

void test_index();
void test_rows();
void test_matmul();
void test_cache();
void test_attention();
void test_sample();
void test_probe();
void test_model();
void test_decode_step();
void test_one_step();   // some of it
void test_memory();     // on the emulated device only, whose free memory is exact
void test_emulation();  // of the CPU emulation itself

}  // namespace cuda
}  // namespace nanochat
