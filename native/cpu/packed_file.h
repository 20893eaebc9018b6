// A model as one safetensors file that loads without conversion. Its tensors, in this order: the matrices, panels as
// PackedMatrix holds them (c_q, c_k and c_v as one c_qkv), sizes and places multiples of 64 bytes; the tables, rows as they
// are read; the small tensors in float32. What the model computes is in the header's __metadata__ (lib/checkpoint/packed.ts).
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cpu/weights.h"

namespace nanochat {

struct PackedTensor {
  std::string name;
  StoredType type;               // of a matrix: f32 (panels, k, 64), b16 (panels, k / 2, 64, 2), packed (panels, groups, bytes)
  std::vector<int64_t> shape;
  const void* data;              // null without weights; otherwise the weights', or of `numbers`
  std::vector<float> numbers;
  int64_t bytes() const;
};

// The tensors of such a file. Without weights the tables have the narrowest type that is legal for them.
std::vector<PackedTensor> packed_tensors(const ModelConfig& config, ComputeType type, const Weights* weights);

// "F32", "BF16" or "U8"
const char* safetensors_type(StoredType type);

// Writes the file anew; `path` must not exist. `metadata` is a JSON object of strings.
Status write_packed(const std::vector<PackedTensor>& tensors, const std::string& metadata, const std::string& path, const std::atomic<bool>& cancelled,
                    const std::function<void(int64_t bytes, int64_t total)>& on_progress);

}  // namespace nanochat
