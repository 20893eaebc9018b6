#include <napi.h>

#include "addon/convert.h"
#include "addon/cuda_device.h"
#include "addon/kernels.h"
#include "addon/model.h"
#include "addon/probe.h"
#include "addon/samplers.h"
#include "addon/sandbox.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  nanochat::init_model(env);
  exports.Set("info", Napi::Function::New(env, nanochat::machine_info, "info"));
  exports.Set("availableMemory", Napi::Function::New(env, nanochat::available_memory, "availableMemory"));
  exports.Set("cudaDevices", Napi::Function::New(env, nanochat::cuda_devices, "cudaDevices"));
  exports.Set("cudaFreeMemory", Napi::Function::New(env, nanochat::cuda_free_memory, "cudaFreeMemory"));
  exports.Set("cudaProbe", Napi::Function::New(env, nanochat::cuda_probe, "cudaProbe"));
  exports.Set("cudaNeeds", Napi::Function::New(env, nanochat::cuda_needs, "cudaNeeds"));
  exports.Set("describe", Napi::Function::New(env, nanochat::describe, "describe"));
  exports.Set("load", Napi::Function::New(env, nanochat::load, "load"));
  exports.Set("seeded", Napi::Function::New(env, nanochat::seeded, "seeded"));
  exports.Set("probe", Napi::Function::New(env, nanochat::probe, "probe"));
  exports.Set("sample", Napi::Function::New(env, nanochat::sample, "sample"));
  exports.Set("kernels", nanochat::make_kernels(env));
  init_sandbox(env, exports);
  return exports;
}

NODE_API_MODULE(nanochat, init)
