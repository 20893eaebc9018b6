#include "cuda/sequence.h"

#include <algorithm>

namespace nanochat {
namespace cuda {

namespace {
constexpr int64_t kCapacityUnit = 256;  // positions
}

void Sequence::reserve(int64_t count) {
  const int64_t needed = length() + count, present = slot_ ? slot_->row().capacity : 0;
  if (needed <= present && slot_.use_count() == 1) return;
  const int64_t capacity = needed <= present ? present : pad_to(std::max(needed, present + present / 2), kCapacityUnit);
  auto own = std::make_shared<Slot>(shape_, capacity);
  if (slot_ && shape_->stream->ok()) {
    const auto pitch = [&](const Slot& slot) { return static_cast<size_t>(slot.row().capacity * shape_->position_bytes); };
    shape_->stream->copy_rows(own->row().slot, pitch(*own), slot_->row().slot, pitch(*slot_), static_cast<size_t>(length() * shape_->position_bytes),
                              static_cast<size_t>(shape_->heads));
  }
  if (shape_->stream->ok()) slot_ = std::move(own);
}

}  // namespace cuda
}  // namespace nanochat
