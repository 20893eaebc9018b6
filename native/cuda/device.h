// What a kernel may use of the device, and nothing else: kernels are written once against these primitives.
//   thread() lane() warp() threads() block_x() block_y() block_z()     where this thread is
//   blocks_x() kCompiledFor                                            how many blocks there are; __CUDA_ARCH__
//   shared_memory()                                                    the block's, as large as its launch asked for
//   sync_block() shuffle() shuffle_xor() any()                         all threads of a block or a warp take part
//   add_shared() add_global()                                          atomic; what they had before
//   publish()                                                          writes before it are seen before writes after it
//   grid_turn() sync_grid()                                            all threads of a cooperative launch (runtime.h) take part
//   prefetch()                                                         asks for what will be read, to the L2 cache
//   wait_for_previous() start_next()                                   of a kernel that overlaps with its neighbours: runtime.h
//   copy_async() commit_copies() wait_copies<N>()                      16 bytes each, global to shared
//   load_matrices() load_matrices_transposed() mma()                   fragments as PTX has them: ldmatrix.x4, m16n8k16
// Two implementations: PTX, and a CPU emulation with a fiber per thread that only tests use.
#pragma once
#include "cuda/index.h"
#include "model/bf16.h"

#ifdef __CUDACC__
#include "cuda/device_ptx.h"
#else
#include "cuda/emulation/device_emulation.h"
#endif

namespace nanochat {
namespace cuda {

// 16 bytes of T, moved as one.
template <class T> struct alignas(16) Chunk {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(T));
  T at[kCount];
};

NC_DEVICE float warp_sum(float v) {
  for (int m = kWarp / 2; m > 0; m /= 2) v += shuffle_xor(v, m);
  return v;
}

// The sum over the block, to every thread; `scratch` has room for one float per warp.
NC_DEVICE float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  if (lane() == 0) scratch[warp()] = v;
  sync_block();
  float sum = 0;
  for (int w = 0; w < threads() / kWarp; w++) sum += scratch[w];
  sync_block();
  return sum;
}

// Waits for all groups of copies but the `newest` ones, or but kMost.
template <int kMost> NC_DEVICE void wait_older_copies(int newest) {
  if constexpr (kMost == 0) wait_copies<0>();
  else if (newest >= kMost) wait_copies<kMost>();
  else wait_older_copies<kMost - 1>(newest);
}

NC_DEVICE float widen(float x) { return x; }
NC_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T> NC_DEVICE T narrow(float x);
template <> NC_DEVICE float narrow<float>(float x) { return x; }
template <> NC_DEVICE bf16 narrow<bf16>(float x) { return round_bf16(x); }

// A table row of either type.
NC_DEVICE float element(const void* row, bool is_bf16, int64_t i) {
  return is_bf16 ? widen(static_cast<const bf16*>(row)[i]) : static_cast<const float*>(row)[i];
}

}  // namespace cuda
}  // namespace nanochat
