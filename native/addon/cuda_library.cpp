#include "addon/cuda_library.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#endif

namespace nanochat {

namespace {

#if defined(__linux__)

// The library lies beside the addon. NANOCHAT_CUDA_LIBRARY names another, for tests.
std::string library_path() {
  if (const char* path = std::getenv("NANOCHAT_CUDA_LIBRARY")) return path;
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&cuda_library), &info) || !info.dli_fname) return "nanochat_cuda.so";
  const std::string addon = info.dli_fname;
  return addon.substr(0, addon.rfind('/') + 1) + "nanochat_cuda.so";
}

CudaLibrary find() {
  CudaLibrary found;
  const auto unavailable = [&](const std::string& message) {
    found.status = Status::error("ERR_DEVICE_UNAVAILABLE", message);
    return found;
  };
  // note: stays open; the CUDA runtime in the library finds this same one.
  if (!dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) {
    return unavailable("There is no NVIDIA driver: libcuda.so.1 was not found. Install the driver, give the container access to the GPU, or use device 'cpu'.");
  }
  const std::string path = library_path();
  if (access(path.c_str(), F_OK) != 0) {
    return unavailable("This build has no CUDA backend: " + path + " is not there. Build it with nvcc 13 (docs/cuda.md), or use device 'cpu'.");
  }
  found.is_broken = true;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return unavailable(std::string("The CUDA backend cannot be loaded: ") + dlerror() + ".");
  const auto get_api = reinterpret_cast<const nc_cuda_api* (*)()>(dlsym(library, "nc_cuda_get_api"));
  const nc_cuda_api* api = get_api ? get_api() : nullptr;
  if (!api || api->abi != NC_CUDA_ABI || api->size < sizeof(nc_cuda_api)) {
    const std::string has = api ? std::to_string(api->abi) : "none";
    return unavailable("The CUDA backend is from another build: " + path + " has interface " + has + " and this addon wants " + std::to_string(NC_CUDA_ABI) + ". Build both from the same version.");
  }
  nc_cuda_status status = {};
  int32_t count = 0;
  if (api->count_devices(&count, &status) != 0) return unavailable(status.message);
  for (int32_t device = 0; device < count; device++) {
    char name[256] = "";
    int64_t bytes = 0;
    if (api->describe_device(device, name, &bytes, &status) != 0) return unavailable(status.message);
    found.devices.push_back({name, bytes});
  }
  found.api = api;
  found.is_broken = false;
  return found;
}

#else

CudaLibrary find() {
  CudaLibrary found;
  found.status = Status::error("ERR_DEVICE_UNAVAILABLE", "The CUDA backend is for Linux only. Use device 'cpu'.");
  return found;
}

#endif

}  // namespace

const CudaLibrary& cuda_library() {
  static const CudaLibrary library = find();
  return library;
}

}  // namespace nanochat
