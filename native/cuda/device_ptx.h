// The device primitives on an NVIDIA GPU, sm_80 and later.
#pragma once
#include <cuda_runtime.h>

#include "cuda/index.h"
#include "model/bf16.h"

#define NC_DEVICE __device__ __forceinline__
// note: at least 1 block, else the compiler spills to make room for more.
#define NC_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
// For kernels that should fit on a processor beside the next one. note: on Hopper alone, elsewhere the same registers spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
#define NC_HALF_KERNEL(threads) __global__ void __launch_bounds__(threads, 1024 / (threads))
#else
#define NC_HALF_KERNEL(threads) NC_KERNEL(threads)
#endif
#define NC_UNROLL _Pragma("unroll")
#define NC_UNROLL_BY_4 _Pragma("unroll 4")
#define NC_NO_UNROLL _Pragma("unroll 1")

namespace nanochat {
namespace cuda {

#ifdef __CUDA_ARCH__
constexpr int kCompiledFor = __CUDA_ARCH__;
#else
constexpr int kCompiledFor = 0;
#endif

NC_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
NC_DEVICE int threads() { return static_cast<int>(blockDim.x); }
NC_DEVICE int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
NC_DEVICE int warp() { return static_cast<int>(threadIdx.x) / kWarp; }
NC_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
NC_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
NC_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }

NC_DEVICE int blocks_x() { return static_cast<int>(gridDim.x); }

NC_DEVICE void* shared_memory() {
  extern __shared__ __align__(128) unsigned char nc_shared[];
  return nc_shared;
}

NC_DEVICE void sync_block() { __syncthreads(); }
template <class V> NC_DEVICE V shuffle(V v, int from) { return __shfl_sync(0xffffffffu, v, from); }
template <class V> NC_DEVICE V shuffle_xor(V v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
NC_DEVICE bool any(bool v) { return __any_sync(0xffffffffu, v); }
NC_DEVICE uint32_t add_shared(uint32_t* to, uint32_t v) { return atomicAdd(to, v); }
NC_DEVICE uint32_t add_global(uint32_t* to, uint32_t v) { return atomicAdd(to, v); }
NC_DEVICE void publish() { __threadfence(); }

NC_DEVICE uint32_t load_acquire(const uint32_t* from) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}
// What sync_grid waits for a change of; before this block's first barrier.
NC_DEVICE uint32_t grid_turn(const uint32_t* arrived) { return load_acquire(arrived) & kGridTurn; }
// note: the counter is zero before the first launch and nobody resets it, see grid_arrival.
NC_DEVICE void sync_grid(uint32_t* arrived, uint32_t* turn) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(arrived), "r"(grid_arrival(block_x(), blocks_x())) : "memory");
    while ((load_acquire(arrived) & kGridTurn) == *turn) continue;
  }
  *turn ^= kGridTurn;
  __syncthreads();
}
NC_DEVICE void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

NC_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
NC_DEVICE void start_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

NC_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// note: an invalid copy writes zeros and reads nothing.
NC_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
NC_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending> NC_DEVICE void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"); }

NC_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
NC_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// c (16, 8) += a (16, 16) b (16, 8), bf16 into float32
NC_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

NC_DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
NC_DEVICE float widen(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

NC_DEVICE bf16 round_bf16(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bf16{bits};
}
NC_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

}  // namespace cuda
}  // namespace nanochat
