// The host's side of an NVIDIA GPU.
#include <cuda_runtime.h>

#include <cstdlib>
#include <unordered_set>
#include <vector>

#include "cuda/hopper.h"
#include "cuda/runtime.h"

namespace nanochat {
namespace cuda {

namespace {

#ifdef NC_HOPPER_KERNELS
constexpr bool kHasHopperKernels = true;
#else
constexpr bool kHasHopperKernels = false;
#endif
constexpr size_t kFreeShared = 48 << 10;  // bytes of shared memory that a kernel gets without asking

std::string text_of(cudaError_t error) { return std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")"; }

struct CudaGraph final : Graph {
  ~CudaGraph() override { cudaGraphExecDestroy(executable); }
  cudaGraphExec_t executable = nullptr;
};

class CudaStream final : public Stream {
 public:
  CudaStream(int device, const cudaDeviceProp& properties)
      : device_(device), can_overlap_(properties.major >= 9), is_hopper_(kHasHopperKernels && properties.major == 9 && properties.minor == 0), processors_(properties.multiProcessorCount),
        waits_for_each_(std::getenv("NANOCHAT_CUDA_SYNC") != nullptr) {}

  ~CudaStream() override {
    cudaSetDevice(device_);
    if (!stream_) return;
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
    cudaStreamDestroy(capturing_);
    cudaMemPool_t pool;
    if (cudaDeviceGetDefaultMemPool(&pool, device_) == cudaSuccess) cudaMemPoolTrimTo(pool, 0);
  }

  Status open() {
    check(cudaSetDevice(device_), "opening the device");
    if (ok()) check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "opening the device");
    // note: a stream of its own, so that memory freed by another thread meanwhile does not become part of the graph
    if (ok()) check(cudaStreamCreateWithFlags(&capturing_, cudaStreamNonBlocking), "opening the device");
    cudaMemPool_t pool;
    uint64_t keep = UINT64_MAX;
    if (ok()) check(cudaDeviceGetDefaultMemPool(&pool, device_), "opening the device");
    if (ok()) check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "opening the device");
    target_ = stream_;
    return take_status();
  }

  void enter() override { check(cudaSetDevice(device_), "choosing the device"); }

  void* allocate(size_t bytes) override {
    void* memory = nullptr;
    if (ok()) check(cudaMallocAsync(&memory, bytes ? bytes : 1, stream_), "allocating " + std::to_string(bytes >> 20) + " MB on the device");
    return memory;
  }
  void free(void* memory) override {
    cudaSetDevice(device_);
    cudaFreeAsync(memory, stream_);
  }
  void* allocate_pinned(size_t bytes) override {
    void* memory = nullptr;
    if (ok()) check(cudaMallocHost(&memory, bytes ? bytes : 1), "allocating " + std::to_string(bytes >> 20) + " MB of pinned memory");
    return memory;
  }
  void free_pinned(void* memory) override { cudaFreeHost(memory); }

  void to_device(void* to, const void* from, size_t bytes) override {
    if (ok() && bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, target_), "copying to the device");
  }
  void to_host(void* to, const void* from, size_t bytes) override {
    if (ok() && bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, target_), "copying from the device");
  }
  void copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t bytes, size_t rows) override {
    if (ok() && bytes > 0) check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, rows, cudaMemcpyDeviceToDevice, target_), "copying on the device");
  }
  void zero(void* memory, size_t bytes) override {
    if (ok() && bytes > 0) check(cudaMemsetAsync(memory, 0, bytes, target_), "clearing memory");
  }

  void launch(const char* name, const void* kernel, void (*)(const void*, const void*), Blocks blocks, int threads, size_t shared_bytes, const void* args,
              size_t, LaunchKind kind) override {
    if (!ok()) return;
    // note: a processor runs kernels side by side only with the same split of its cache
    if (launched_.insert(kernel).second) check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared), name);
    if (ok() && shared_bytes > kFreeShared) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), name);
    void* list[] = {const_cast<void*>(args)};
    cudaLaunchAttribute attribute = {};
    if (kind == LaunchKind::cooperative) {  // note: the runtime refuses more blocks than fit at once
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    } else {
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    cudaLaunchConfig_t launch = {};
    launch.gridDim = dim3(static_cast<unsigned>(blocks.x), static_cast<unsigned>(blocks.y), static_cast<unsigned>(blocks.z));
    launch.blockDim = dim3(static_cast<unsigned>(threads));
    launch.dynamicSmemBytes = shared_bytes;
    launch.stream = target_;
    launch.attrs = &attribute;
    // note: a kernel after a cooperative one waits as ever, that one has no processor left beside it
    launch.numAttrs = kind == LaunchKind::cooperative || (kind == LaunchKind::overlapping && can_overlap_ && !after_cooperative_) ? 1 : 0;
    after_cooperative_ = kind == LaunchKind::cooperative;
    if (ok()) check(cudaLaunchKernelExC(&launch, kernel, list), name);
    last_kernel_ = name;
    if (waits_for_each_ && target_ == stream_ && ok()) check(cudaStreamSynchronize(stream_), name);
  }

  std::unique_ptr<Graph> capture(const std::function<void()>& record) override {
    if (!ok()) return nullptr;
    check(cudaStreamBeginCapture(capturing_, cudaStreamCaptureModeThreadLocal), "capturing a step");
    target_ = capturing_;
    if (ok()) record();
    target_ = stream_;
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(capturing_, &graph);
    if (ok()) check(ended, "capturing a step");
    auto captured = std::make_unique<CudaGraph>();
    if (ok()) check(cudaGraphInstantiate(&captured->executable, graph, 0), "capturing a step");
    if (graph) cudaGraphDestroy(graph);
    return ok() ? std::move(captured) : nullptr;
  }

  void replay(const Graph& graph) override {
    if (ok()) check(cudaGraphLaunch(static_cast<const CudaGraph&>(graph).executable, stream_), "replaying a step");
    last_kernel_ = "a captured step";
  }

  void synchronize() override {
    if (!ok()) return;
    const cudaError_t error = cudaStreamSynchronize(stream_);
    if (error == cudaSuccess) return;
    check(error, "a pass that ended with " + std::string(last_kernel_) + (waits_for_each_ ? "" : "; NANOCHAT_CUDA_SYNC=1 finds the kernel itself"));
  }

  int64_t free_bytes() override {
    size_t free = 0, total = 0;
    if (ok()) check(cudaMemGetInfo(&free, &total), "asking for the free memory");
    return static_cast<int64_t>(free);
  }
  int processors() const override { return processors_; }
  int64_t cache_bytes() override { return attribute(cudaDevAttrL2CacheSize); }
  int64_t shared_bytes() override { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
  int compiled_for(const void* kernel) override {
    cudaFuncAttributes attributes = {};
    if (ok()) check(cudaFuncGetAttributes(&attributes, kernel), "asking for a kernel's code");
    return attributes.ptxVersion * 10;
  }
  bool is_hopper() const override { return is_hopper_; }

  void describe(TensorMap* map, const BoxedArray& a) override {
    if (!ok()) return;
    const cuuint64_t sizes[] = {static_cast<cuuint64_t>(a.sizes[0]), static_cast<cuuint64_t>(a.sizes[1]), static_cast<cuuint64_t>(a.sizes[2])};
    const cuuint64_t strides[] = {static_cast<cuuint64_t>(a.row_bytes), static_cast<cuuint64_t>(a.plane_bytes)};
    const cuuint32_t box[] = {64, static_cast<cuuint32_t>(a.box_rows), static_cast<cuuint32_t>(a.box_planes)};
    const CUresult result = encode_tensor_map(reinterpret_cast<CUtensorMap*>(map), a.data, 3, sizes, strides, box);
    if (result != CUDA_SUCCESS) fail("ERR_CUDA", "CUDA error in describing an array to the copy engine: " + std::to_string(result) + ".");
  }

 private:
  int attribute(cudaDeviceAttr which) {
    int value = 0;
    if (ok()) check(cudaDeviceGetAttribute(&value, which, device_), "asking for the device's size");
    return value;
  }

  void check(cudaError_t error, const std::string& what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // note: an error that is not sticky is forgotten, the next pass may work
    if (error == cudaErrorMemoryAllocation) fail("ERR_OUT_OF_MEMORY", "Not enough memory: " + what + ". Use fewer rows, shorter prompts or a smaller model.");
    else fail("ERR_CUDA", "CUDA error in " + what + ": " + text_of(error) + ".");
  }

  const int device_;
  const bool can_overlap_;
  const bool is_hopper_;
  const int processors_;
  const bool waits_for_each_;
  std::unordered_set<const void*> launched_;  // kernels
  cudaStream_t stream_ = nullptr, capturing_ = nullptr, target_ = nullptr;
  const char* last_kernel_ = "no kernel";
  bool after_cooperative_ = false;
};

}  // namespace

Status Stream::open(int device, std::unique_ptr<Stream>* stream) {
  int count = 0;
  Status status = count_devices(&count);
  if (!status.ok()) return status;
  if (device >= count) return Status::error("ERR_DEVICE_UNAVAILABLE", "There is no CUDA device " + std::to_string(device) + ": the driver shows " + std::to_string(count) + ".");
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return Status::error("ERR_DEVICE_UNAVAILABLE", "CUDA device " + std::to_string(device) + " does not answer: " + text_of(error) + ".");
  if (properties.major < 8) {
    return Status::error("ERR_DEVICE_UNAVAILABLE", std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." +
                         std::to_string(properties.minor) + "; 8.0 (Ampere) or newer is needed. Use device 'cpu'.");
  }
  auto opened = std::make_unique<CudaStream>(device, properties);
  status = opened->open();
  if (status.ok()) *stream = std::move(opened);
  return status;
}

Status count_devices(int* count) {
  *count = 0;
  const auto unavailable = [](const std::string& message) { return Status::error("ERR_DEVICE_UNAVAILABLE", message); };
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaErrorInsufficientDriver) {
    int version = 0;
    cudaDriverGetVersion(&version);
    if (version == 0) return unavailable("There is no NVIDIA driver that answers. Install release 580 or newer.");
    const std::string supports = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
    return unavailable("The NVIDIA driver is too old: it supports CUDA " + supports + " and " + std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10) +
                       " is needed. Update it to release 580 or newer.");
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && *count == 0)) {
    return unavailable("The NVIDIA driver is there but shows no device. Check nvidia-smi, CUDA_VISIBLE_DEVICES and the container's GPU access.");
  }
  if (error != cudaSuccess) return unavailable("The NVIDIA driver does not work: " + text_of(error) + ".");
  return {};
}

Status describe_device(int device, std::string* name, int64_t* bytes) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return Status::error("ERR_DEVICE_UNAVAILABLE", "CUDA device " + std::to_string(device) + " does not answer: " + text_of(error) + ".");
  *name = properties.name;
  *bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return {};
}

}  // namespace cuda
}  // namespace nanochat
