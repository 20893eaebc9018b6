#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(_WIN32)
#include <malloc.h>
#endif

namespace nanochat {

// Owned memory at a 64-byte boundary, in huge pages where it is large and they exist. Contents start undefined.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const size_t huge = (bytes + kHuge / 2) / kHuge * kHuge;  // those huge pages of which at least half is used
    const size_t alignment = huge > 0 ? kHuge : 64;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
#if defined(_WIN32)
    data_ = _aligned_malloc(rounded, 64);
#else
    data_ = std::aligned_alloc(alignment, rounded);
#endif
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (huge > 0) madvise(data_, huge, MADV_HUGEPAGE);
#endif
  }
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      release();
      data_ = std::exchange(other.data_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }

  template <class T> T* as() { return static_cast<T*>(data_); }
  template <class T> const T* as() const { return static_cast<const T*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kHuge = 2u << 20;

  void release() {
#if defined(_WIN32)
    _aligned_free(data_);
#else
    std::free(data_);
#endif
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace nanochat
