// Finds the CUDA backend: the driver first, then the library beside the addon.
#pragma once
#include <string>
#include <vector>

#include "cuda/api.h"
#include "model/status.h"

namespace nanochat {

struct CudaDevice {
  std::string name;
  int64_t bytes;
};

// What this machine has, found out at the first call, any thread. Where `status` is an error it says why there is nothing
// to use and `devices` is empty.
struct CudaLibrary {
  Status status;
  bool is_broken = false;  // driver and library are there and do not work: somebody may want to know
  const nc_cuda_api* api = nullptr;
  std::vector<CudaDevice> devices;
};

const CudaLibrary& cuda_library();

}  // namespace nanochat
