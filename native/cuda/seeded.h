// Models whose weights are a formula (fixtures/README.md), for the programs that run without Node.
#pragma once
#include "cuda/weights.h"
#include "model/tensor_source.h"

namespace nanochat {
namespace cuda {

inline Source seeded_source(const TensorSource& tensors) {
  Source source;
  source.is_bf16 = [](const std::string&, int64_t, int64_t) { return false; };
  source.read = [&tensors](const std::string& name, int64_t rows, int64_t columns, int64_t from, int64_t count, float* out) {
    StoredTensor tensor;
    const Status status = tensors.find(name, rows, columns, &tensor);
    for (int64_t r = 0; r < count && status.ok(); r++) tensor.read_row(from + r, out + r * columns);
    return status;
  };
  source.progress = [](int64_t, int64_t) { return true; };
  return source;
}

}  // namespace cuda
}  // namespace nanochat
