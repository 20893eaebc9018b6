#include "model/tensor_source.h"

#include <cstring>

#include "model/bf16.h"

namespace nanochat {

namespace {

uint32_t fnv1a32(const std::string& text) {
  uint32_t hash = 0x811c9dc5u;
  for (char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x01000193u;
  return hash;
}

uint32_t lowbias32(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// fixtures/README.md: the scale by tensor, and what is added to it.
void set_formula(const std::string& name, StoredTensor* tensor) {
  if (name == "smear_lambda" || name == "backout_lambda") {
    tensor->formula_base = name == "smear_lambda" ? 0.5f : 0.25f;
    tensor->formula_scale = 0;
  } else if (name == "resid_lambdas") {
    tensor->formula_base = 1;
    tensor->formula_scale = 0.25f;
  } else if (name == "x0_lambdas") {
    tensor->formula_scale = 0.5f;
  } else if (contains(name, "c_proj")) {
    tensor->formula_scale = 0x1p-4f;
  } else if (name == "lm_head.weight") {
    tensor->formula_scale = 0x1p-2f;
  } else if (contains(name, "c_q") || contains(name, "c_k") || contains(name, "c_v") || contains(name, "c_fc")) {
    tensor->formula_scale = 0x1p-3f;
  } else {
    tensor->formula_scale = 2;
  }
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace

void StoredTensor::read_row(int64_t row, float* out) const {
  const uint8_t* source = data + row * columns * bytes_of(type);
  switch (type) {
    case StoredType::f32:
      std::memcpy(out, source, static_cast<size_t>(columns) * 4);
      return;
    case StoredType::b16:
    case StoredType::f16:
      for (int64_t c = 0; c < columns; c++) {
        uint16_t bits;
        std::memcpy(&bits, source + 2 * c, 2);
        out[c] = type == StoredType::b16 ? to_float(bf16{bits}) : half_to_float(bits);
      }
      return;
    case StoredType::formula:
      for (int64_t c = 0; c < columns; c++) {
        const uint32_t x = lowbias32(static_cast<uint32_t>(row * columns + c) + formula_seed);
        const float u = static_cast<float>(x >> 8) * 0x1p-24f - 0.5f;
        out[c] = formula_base + u * formula_scale;
      }
      return;
    case StoredType::packed:  // note: TensorSource::find gives none
      return;
  }
}

void StoredTensor::release_rows(int64_t from, int64_t to) const {
  if (!file) return;
  const int64_t row_bytes = columns * bytes_of(type);
  file->release(data + from * row_bytes, data + to * row_bytes);
}

Status TensorSource::open(const std::vector<TensorEntry>& entries, const std::vector<std::string>& files, std::unique_ptr<TensorSource>* source) {
  std::unique_ptr<TensorSource> opened(new TensorSource());
  for (const std::string& path : files) {
    std::shared_ptr<const MappedFile> file;
    Status status = MappedFile::open(path, &file);
    if (!status.ok()) return status;
    opened->files_.push_back(std::move(file));
  }
  for (const TensorEntry& entry : entries) {
    const auto broken = [&](const std::string& what) { return Status::error("ERR_CHECKPOINT_FORMAT", "Tensor " + entry.name + " " + what + "."); };
    if (entry.type == StoredType::formula) return broken("has no stored type");
    if (entry.file < 0 || entry.file >= static_cast<int>(files.size())) return broken("names a file that is not there");
    const int64_t size = opened->files_[entry.file]->size();
    int64_t bytes = bytes_of(entry.type);
    for (int64_t dimension : entry.shape) {
      if (dimension <= 0 || bytes > size / dimension) return broken("of shape " + shape_text(entry.shape) + " does not fit in its file");
      bytes *= dimension;
    }
    if (entry.offset < 0 || entry.offset > size - bytes) return broken("ends beyond its file, which has " + std::to_string(size) + " bytes");
    if (!opened->entries_.emplace(entry.name, entry).second) return broken("occurs twice");
  }
  *source = std::move(opened);
  return {};
}

std::unique_ptr<TensorSource> TensorSource::seeded(uint32_t seed) {
  std::unique_ptr<TensorSource> source(new TensorSource());
  source->is_seeded_ = true;
  source->seed_ = seed;
  return source;
}

Status TensorSource::find(const std::string& name, int64_t rows, int64_t columns, StoredTensor* tensor) const {
  *tensor = StoredTensor();
  tensor->rows = rows;
  tensor->columns = columns;
  if (is_seeded_) {
    tensor->formula_seed = (fnv1a32(name) ^ seed_) * 0x9E3779B9u;
    set_formula(name, tensor);
    return {};
  }
  const auto found = entries_.find(name);
  if (found == entries_.end()) return Status::error("ERR_CHECKPOINT_ARCH", "Tensor " + name + " is missing.");
  const TensorEntry& entry = found->second;
  if (entry.type == StoredType::packed) return Status::error("ERR_CHECKPOINT_ARCH", "Expected numbers in tensor " + name + " but it is packed.");
  int64_t stored_rows = 1;
  for (size_t d = 0; d + 1 < entry.shape.size(); d++) stored_rows *= entry.shape[d];
  const int64_t stored_columns = entry.shape.empty() ? 1 : entry.shape.back();
  if (stored_columns != columns || stored_rows < rows) {
    return Status::error("ERR_CHECKPOINT_ARCH", "Expected tensor " + name + " to be [" + std::to_string(rows) + ", " + std::to_string(columns) + "] but it is " + shape_text(entry.shape) + ".");
  }
  tensor->type = entry.type;
  tensor->file = files_[entry.file].get();
  tensor->data = tensor->file->data() + entry.offset;
  return {};
}

Status TensorSource::find_bytes(const std::string& name, int64_t bytes, const uint8_t** data) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return Status::error("ERR_CHECKPOINT_ARCH", "Tensor " + name + " is missing.");
  const TensorEntry& entry = found->second;
  int64_t stored = bytes_of(entry.type);
  for (int64_t dimension : entry.shape) stored *= dimension;
  if (stored != bytes) return Status::error("ERR_CHECKPOINT_ARCH", "Expected " + std::to_string(bytes) + " bytes in tensor " + name + " but it has " + std::to_string(stored) + ".");
  *data = files_[static_cast<size_t>(entry.file)]->data() + entry.offset;
  return {};
}

Status TensorSource::check() const {
  for (const auto& file : files_) {
    Status status = file->check();
    if (!status.ok()) return status;
  }
  return {};
}

Status TensorSource::read_all(const std::string& name, int64_t rows, int64_t columns, std::vector<float>* out) const {
  StoredTensor tensor;
  Status status = find(name, rows, columns, &tensor);
  if (!status.ok()) return status;
  out->resize(static_cast<size_t>(rows * columns));
  for (int64_t row = 0; row < rows; row++) tensor.read_row(row, out->data() + row * columns);
  return {};
}

}  // namespace nanochat
