// Where a model's numbers come from: a checkpoint's files, or a formula (fixtures/README.md, seeded models).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/config.h"
#include "model/mapped_file.h"
#include "model/status.h"

namespace nanochat {

enum class StoredType { f32, b16, f16, packed, formula };

// packed: bytes of a matrix in panels (cpu/packed_file.h)
inline int64_t bytes_of(StoredType type) {
  switch (type) {
    case StoredType::f32: return 4;
    case StoredType::packed: return 1;
    case StoredType::formula: return 0;
    default: return 2;
  }
}

// A matrix of `rows` rows as stored: rows are read one by one and turned into float32.
struct StoredTensor {
  StoredType type = StoredType::formula;
  int64_t rows = 0, columns = 0;
  const uint8_t* data = nullptr;  // (rows, columns), any alignment
  const MappedFile* file = nullptr;
  uint32_t formula_seed = 0;
  float formula_scale = 0;
  float formula_base = 0;  // weight = base + u * scale

  // out (columns)
  void read_row(int64_t row, float* out) const;
  // Says that rows [from, to) will not be read again.
  void release_rows(int64_t from, int64_t to) const;
};

struct TensorEntry {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
  int file = 0;
  int64_t offset = 0;  // bytes
};

class TensorSource {
 public:
  // The tensors of checkpoint files. Every extent is checked against its file.
  static Status open(const std::vector<TensorEntry>& entries, const std::vector<std::string>& files, std::unique_ptr<TensorSource>* source);
  // Tensors whose weights are a formula of their name, their index and the seed.
  static std::unique_ptr<TensorSource> seeded(uint32_t seed);

  // Whether the matrices are as PackedMatrix holds them; the whole model is then in one file.
  bool is_packed() const { return is_packed_; }
  void set_packed() { is_packed_ = true; }
  const std::shared_ptr<const MappedFile>& file() const { return files_.front(); }
  // An error when a file became shorter while it was read.
  Status check() const;

  // The tensor called `name` with at least `rows` rows of exactly `columns`; an error names it when it is not there.
  Status find(const std::string& name, int64_t rows, int64_t columns, StoredTensor* tensor) const;
  // The bytes of the tensor called `name`, which has exactly that many.
  Status find_bytes(const std::string& name, int64_t bytes, const uint8_t** data) const;
  // A small tensor, whole: (count)
  Status read_all(const std::string& name, int64_t rows, int64_t columns, std::vector<float>* out) const;

 private:
  bool is_seeded_ = false, is_packed_ = false;
  uint32_t seed_ = 0;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::unordered_map<std::string, TensorEntry> entries_;
};

}  // namespace nanochat
