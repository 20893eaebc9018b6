// A device that is this process: memory that begins as NaN, kernels that run at once in emulated blocks.
#include "cuda/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "cuda/device.h"
#include "cuda/emulation/block.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int64_t kMemoryBytes = int64_t{4} << 30;
constexpr int64_t kSharedBytes = 227 << 10;  // as Hopper has it

// What is allocated, by all streams.
std::mutex mutex;
std::unordered_map<void*, int64_t> allocated;
int64_t allocated_bytes = 0;

int64_t memory_bytes() {
  const char* megabytes = std::getenv("NANOCHAT_EMULATION_MEMORY_MB");  // a device of the size that a test wants
  return megabytes ? std::atoll(megabytes) << 20 : kMemoryBytes;
}

struct EmulatedGraph final : Graph {
  std::vector<std::function<void()>> work;
};

class EmulatedStream final : public Stream {
 public:
  void enter() override {}
  void* allocate(size_t bytes) override {
    if (!ok()) return nullptr;
    if (static_cast<int64_t>(bytes) > free_bytes()) {
      fail("ERR_OUT_OF_MEMORY", "The emulated device has no memory left for " + std::to_string(bytes) + " bytes.");
      return nullptr;
    }
    void* memory = fresh(bytes);
    const std::lock_guard<std::mutex> lock(mutex);
    allocated[memory] = static_cast<int64_t>(bytes);
    allocated_bytes += static_cast<int64_t>(bytes);
    return memory;
  }
  void free(void* memory) override {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      const auto found = allocated.find(memory);
      allocated_bytes -= found->second;
      allocated.erase(found);
    }
    std::free(memory);
  }
  void* allocate_pinned(size_t bytes) override { return ok() ? fresh(bytes) : nullptr; }
  void free_pinned(void* memory) override { std::free(memory); }
  void to_device(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void to_host(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t bytes, size_t rows) override {
    now_or_later([=] {
      for (size_t r = 0; r < rows; r++) std::memcpy(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(from) + r * from_pitch, bytes);
    });
  }
  void zero(void* memory, size_t bytes) override {
    now_or_later([=] { std::memset(memory, 0, bytes); });
  }

  void launch(const char* name, const void* kernel, void (*call)(const void*, const void*), Blocks blocks, int threads, size_t shared_bytes, const void* args,
              size_t args_bytes, LaunchKind kind) override {
    const char* bytes = static_cast<const char*>(args);
    const emulation::Grid grid{static_cast<int>(blocks.x), static_cast<int>(blocks.y), static_cast<int>(blocks.z)};
    now_or_later([this, name, kernel, call, grid, threads, shared_bytes, kind, kept = std::vector<char>(bytes, bytes + args_bytes)] {
      const char* broken = std::getenv("NANOCHAT_EMULATION_FAIL");  // the kernel that a test wants to fail
      const std::string wrong = broken && std::strcmp(broken, name) == 0 ? "failed on demand" : emulation::run(grid, threads, shared_bytes, kind == LaunchKind::cooperative, [&] { call(kernel, kept.data()); });
      if (!wrong.empty()) fail("ERR_CUDA", std::string(name) + ": " + wrong);
    });
  }

  std::unique_ptr<Graph> capture(const std::function<void()>& record) override {
    auto graph = std::make_unique<EmulatedGraph>();
    captured_ = graph.get();
    record();
    captured_ = nullptr;
    return ok() ? std::move(graph) : nullptr;
  }

  void replay(const Graph& graph) override {
    for (const auto& one : static_cast<const EmulatedGraph&>(graph).work) if (ok()) one();
  }

  void synchronize() override {}
  int64_t free_bytes() override {
    const std::lock_guard<std::mutex> lock(mutex);
    return std::max<int64_t>(0, memory_bytes() - allocated_bytes);
  }
  int processors() const override { return emulation::processors; }
  int64_t cache_bytes() override { return 4 << 10; }
  int64_t shared_bytes() override { return kSharedBytes; }
  int compiled_for(const void*) override { return kCompiledFor; }

 private:
  void* fresh(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes ? bytes : 1) != 0) {
      fail("ERR_OUT_OF_MEMORY", "This machine has no memory left for the emulated device.");
      return nullptr;
    }
    std::memset(memory, 0xff, bytes);  // NaN in float32 and bfloat16
    return memory;
  }

  void move(void* to, const void* from, size_t bytes) {
    if (captured_) fail("ERR_CUDA", "memory of the host was copied while a graph was captured");
    if (ok() && bytes > 0) std::memcpy(to, from, bytes);
  }

  void now_or_later(std::function<void()> work) {
    if (!ok()) return;
    if (captured_) captured_->work.push_back(std::move(work));
    else work();
  }

  EmulatedGraph* captured_ = nullptr;
};

}  // namespace

Status Stream::open(int device, std::unique_ptr<Stream>* stream) {
  if (device != 0) return Status::error("ERR_DEVICE_UNAVAILABLE", "There is no device " + std::to_string(device) + ": the emulation is one.");
  *stream = std::make_unique<EmulatedStream>();
  return {};
}

Status count_devices(int* count) {
  *count = 1;
  return {};
}

Status describe_device(int, std::string* name, int64_t* bytes) {
  *name = "CPU emulation";
  *bytes = memory_bytes();
  return {};
}

}  // namespace cuda
}  // namespace nanochat
