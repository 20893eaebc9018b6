// Pieces of what a kernel reads, on their way through shared memory.
#pragma once
#include "cuda/device.h"

namespace nanochat {
namespace cuda {

// A place in a sequence of items (outputs' weights, splits' keys) that are taken in pieces, and the slot of the piece in a ring.
template <int kSlots> struct RingPlace {
  int item = 0, from = 0, slot = 0;
  // Past a piece of `by`, of an item of `length`.
  NC_DEVICE void advance(int by, int length) {
    if (++slot == kSlots) slot = 0;
    from += by;
    if (from < length) return;
    from = 0;
    item++;
  }
};

}  // namespace cuda
}  // namespace nanochat
