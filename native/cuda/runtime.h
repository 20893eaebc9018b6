// The host's side of a device: a stream of work that remembers its first error, memory, captured steps. Two
// implementations: the CUDA runtime, and the CPU emulation.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "model/status.h"

namespace nanochat {
namespace cuda {

struct Blocks {
  int64_t x = 1, y = 1, z = 1;
};

// What the copy engine of a Hopper GPU knows of an array (a CUtensorMap).
struct alignas(128) TensorMap {
  unsigned char bytes[128];
};

// (sizes[2], sizes[1], sizes[0]) bf16, copied in boxes of 64 elements by box_rows by box_planes; outside of it are zeros.
struct BoxedArray {
  const void* data;
  int64_t sizes[3], row_bytes, plane_bytes;
  int box_rows, box_planes;
};

// How a kernel's blocks stand to other work.
enum class LaunchKind {
  plain,
  overlapping,  // with the kernels before and after it, see launch_overlapping
  cooperative,  // all at once, so that they may wait for each other: see sync_grid
};

class Graph {
 public:
  virtual ~Graph() = default;
};

// After an error everything but free() does nothing until take_status() reports it.
class Stream {
 public:
  static Status open(int device, std::unique_ptr<Stream>* stream);
  virtual ~Stream() = default;

  // Makes this thread use the stream's device; every thread that calls anything here does it first.
  virtual void enter() = 0;
  virtual void* allocate(size_t bytes) = 0;       // null after an error
  virtual void free(void* memory) = 0;            // any thread; in the stream's order
  virtual void* allocate_pinned(size_t bytes) = 0;
  virtual void free_pinned(void* memory) = 0;
  // note: host memory is read and written when the work gets there, not at the call.
  virtual void to_device(void* to, const void* from, size_t bytes) = 0;
  virtual void to_host(void* to, const void* from, size_t bytes) = 0;
  // `rows` rows of `bytes`, `to_pitch` and `from_pitch` bytes apart, on the device.
  virtual void copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t bytes, size_t rows) = 0;
  virtual void zero(void* memory, size_t bytes) = 0;
  virtual void launch(const char* name, const void* kernel, void (*call)(const void* kernel, const void* args), Blocks blocks, int threads, size_t shared_bytes,
                      const void* args, size_t args_bytes, LaunchKind kind) = 0;
  // The work that `record` puts on this stream, to be replayed; null when that failed.
  virtual std::unique_ptr<Graph> capture(const std::function<void()>& record) = 0;
  virtual void replay(const Graph& graph) = 0;
  virtual void synchronize() = 0;
  virtual int64_t free_bytes() = 0;
  virtual int processors() const = 0;  // multiprocessors
  virtual int64_t cache_bytes() = 0;  // of L2
  virtual int64_t shared_bytes() = 0;  // of a processor, the most that a block may have
  virtual int compiled_for(const void* kernel) = 0;  // __CUDA_ARCH__ of the code that this device runs
  // Compute capability 9.0, and this build has kernels for it.
  virtual bool is_hopper() const { return false; }
  virtual void describe(TensorMap*, const BoxedArray&) {}  // of a Hopper device only

  bool ok() const { return status_.ok(); }
  Status take_status();

 protected:
  void fail(const char* code, const std::string& message);

 private:
  Status status_;
};

// Devices that this process can use; an error says why there are none.
Status count_devices(int* count);
Status describe_device(int device, std::string* name, int64_t* bytes);

template <class Args> void launch(Stream& stream, const char* name, void (*kernel)(Args), Blocks blocks, int threads, size_t shared_bytes, const Args& args, LaunchKind kind = LaunchKind::plain) {
  const auto call = [](const void* k, const void* a) { reinterpret_cast<void (*)(Args)>(const_cast<void*>(k))(*static_cast<const Args*>(a)); };
  stream.launch(name, reinterpret_cast<const void*>(kernel), call, blocks, threads, shared_bytes, &args, sizeof args, kind);
}

// The kernel may begin when all blocks of the kernel before have called start_next() or ended; it reads and writes nothing
// but constants before wait_for_previous(), which every thread calls. (Programmatic dependent launch, sm_90 and later.)
template <class Args> void launch_overlapping(Stream& stream, const char* name, void (*kernel)(Args), Blocks blocks, int threads, size_t shared_bytes, const Args& args) {
  launch(stream, name, kernel, blocks, threads, shared_bytes, args, LaunchKind::overlapping);
}

// A block per processor, side by side: an error where that many do not fit.
template <class Args> void launch_cooperative(Stream& stream, const char* name, void (*kernel)(Args), int threads, size_t shared_bytes, const Args& args) {
  launch(stream, name, kernel, {stream.processors()}, threads, shared_bytes, args, LaunchKind::cooperative);
}

// Memory of a stream, freed with its owner: on the device, or pinned on the host.
template <bool kPinned> class Owned {
 public:
  Owned() = default;
  Owned(std::shared_ptr<Stream> stream, size_t bytes)
      : stream_(std::move(stream)), data_(kPinned ? stream_->allocate_pinned(bytes) : stream_->allocate(bytes)), bytes_(data_ ? bytes : 0) {}
  ~Owned() {
    if (data_ && kPinned) stream_->free_pinned(data_);
    else if (data_) stream_->free(data_);
  }
  Owned(Owned&& other) noexcept { swap(other); }
  Owned& operator=(Owned&& other) noexcept {
    swap(other);
    return *this;
  }
  template <class T> T* as() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Owned& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  std::shared_ptr<Stream> stream_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};
using Memory = Owned<false>;
using Pinned = Owned<true>;

}  // namespace cuda
}  // namespace nanochat
