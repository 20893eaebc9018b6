// A model on a CUDA device, behind the addon's backend interface.
#pragma once
#include <memory>

#include "addon/backend.h"
#include "cpu/thread_pool.h"
#include "cuda/api.h"
#include "model/tensor_source.h"

namespace nanochat {

// The library's answer as the addon's status.
Status cuda_status(const nc_cuda_status& status);

// Loads a model on `device`; ERR_DEVICE_UNAVAILABLE where there is none. `context` is used while loading only.
Status load_cuda_model(int device, const ModelConfig& config, bool is_bf16, const TensorSource& source, const LoadContext& context, std::unique_ptr<BackendModel>* model);

}  // namespace nanochat
