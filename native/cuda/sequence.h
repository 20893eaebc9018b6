// One row's cached keys and values: a linear slot that forks share until one of them writes.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/runtime.h"

namespace nanochat {
namespace cuda {

// What all slots of a model have in common.
struct SlotShape {
  std::shared_ptr<Stream> stream;
  int64_t heads;            // layers * 2 * K: stretches of capacity positions
  int64_t position_bytes;   // Dp elements
  std::atomic<int64_t> bytes_in_use{0};
};

class Slot {
 public:
  Slot(std::shared_ptr<SlotShape> shape, int64_t capacity)
      : shape_(std::move(shape)), capacity_(capacity), data_(shape_->stream, static_cast<size_t>(shape_->heads * shape_->position_bytes * capacity)) {
    shape_->bytes_in_use += static_cast<int64_t>(data_.bytes());
  }
  ~Slot() { shape_->bytes_in_use -= static_cast<int64_t>(data_.bytes()); }
  Row row() const { return {data_.as<void>(), capacity_}; }

 private:
  std::shared_ptr<SlotShape> shape_;
  int64_t capacity_;
  Memory data_;
};

class Sequence {
 public:
  explicit Sequence(std::shared_ptr<SlotShape> shape) : shape_(std::move(shape)) {}

  int64_t length() const { return static_cast<int64_t>(ids_.size()); }
  const std::vector<int32_t>& ids() const { return ids_; }
  Row row() const { return slot_->row(); }
  std::unique_ptr<Sequence> fork() const { return std::unique_ptr<Sequence>(new Sequence(*this)); }
  void truncate(int64_t length) {
    ids_.resize(static_cast<size_t>(length));
    if (length == 0) slot_.reset();
  }
  void append(const int32_t* ids, int64_t count) { ids_.insert(ids_.end(), ids, ids + count); }

  // Makes room for `count` tokens after the present ones, in a slot of its own.
  void reserve(int64_t count);

 private:
  Sequence(const Sequence&) = default;

  std::shared_ptr<SlotShape> shape_;
  std::shared_ptr<Slot> slot_;
  std::vector<int32_t> ids_;  // the smear of the next token needs the last one
};

}  // namespace cuda
}  // namespace nanochat
