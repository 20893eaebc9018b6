// A device that is this process: memory that begins as NaN, kernels that run at once in emulated blocks.
#include "cuda/runtime.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/emulation/block.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int64_t kMemoryBytes = int64_t{4} << 30;

struct RecordedLaunch {
  const char* name;
  const void* kernel;
  void (*call)(const void*, const void*);
  Blocks blocks;
  int threads;
  size_t shared_bytes;
  std::vector<char> args;
};

struct EmulatedGraph final : Graph {
  std::vector<RecordedLaunch> launches;
};

class EmulatedStream final : public Stream {
 public:
  void enter() override {}
  void* allocate(size_t bytes) override { return ok() ? fresh(bytes) : nullptr; }
  void free(void* memory) override { std::free(memory); }
  void* allocate_pinned(size_t bytes) override { return ok() ? fresh(bytes) : nullptr; }
  void free_pinned(void* memory) override { std::free(memory); }
  void to_device(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void to_host(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { move(to, from, bytes); }
  void zero(void* memory, size_t bytes) override {
    if (captured_) fail("ERR_CUDA", "memory was set while a graph was captured");
    if (ok() && bytes > 0) std::memset(memory, 0, bytes);
  }

  void launch(const char* name, const void* kernel, void (*call)(const void*, const void*), Blocks blocks, int threads, size_t shared_bytes, const void* args,
              size_t args_bytes) override {
    if (!ok()) return;
    const char* bytes = static_cast<const char*>(args);
    RecordedLaunch one{name, kernel, call, blocks, threads, shared_bytes, std::vector<char>(bytes, bytes + args_bytes)};
    if (captured_) captured_->launches.push_back(std::move(one));
    else run(one);
  }

  std::unique_ptr<Graph> capture(const std::function<void()>& record) override {
    auto graph = std::make_unique<EmulatedGraph>();
    captured_ = graph.get();
    record();
    captured_ = nullptr;
    return ok() ? std::move(graph) : nullptr;
  }

  void replay(const Graph& graph) override {
    for (const RecordedLaunch& one : static_cast<const EmulatedGraph&>(graph).launches) run(one);
  }

  void synchronize() override {}
  int64_t free_bytes() override { return kMemoryBytes; }

 private:
  void* fresh(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes ? bytes : 1) != 0) {
      fail("ERR_OUT_OF_MEMORY", "The emulated device has no memory left.");
      return nullptr;
    }
    std::memset(memory, 0xff, bytes);  // NaN in float32 and bfloat16
    return memory;
  }

  void move(void* to, const void* from, size_t bytes) {
    if (captured_) fail("ERR_CUDA", "memory was copied while a graph was captured");
    if (ok() && bytes > 0) std::memcpy(to, from, bytes);
  }

  void run(const RecordedLaunch& one) {
    if (!ok()) return;
    const emulation::Grid grid{static_cast<int>(one.blocks.x), static_cast<int>(one.blocks.y), static_cast<int>(one.blocks.z)};
    const std::string wrong = emulation::run(grid, one.threads, one.shared_bytes, [&] { one.call(one.kernel, one.args.data()); });
    if (!wrong.empty()) fail("ERR_CUDA", std::string(one.name) + ": " + wrong);
  }

  EmulatedGraph* captured_ = nullptr;
};

}  // namespace

Status Stream::open(int, std::unique_ptr<Stream>* stream) {
  *stream = std::make_unique<EmulatedStream>();
  return {};
}

int device_count(Status*) { return 1; }

}  // namespace cuda
}  // namespace nanochat
