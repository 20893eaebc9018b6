// What only Hopper has (sm_90a): boxes of a matrix copied into shared memory by the tensor memory accelerator, which reports
// to a barrier, and products that four warps start together and that run on their own.
// An operand in shared memory is rows of 64 bf16 (128 bytes), swizzled: 16-byte chunk c of row r lies at chunk c ^ (r % 8);
// it begins at a multiple of 1024 bytes.
#pragma once
#include <cuda.h>

#include "cuda/device.h"

namespace nanochat {
namespace cuda {

// Describes a bf16 array of `dimensions` sizes, the innermost first, and the bytes between its rows, planes.., to the
// accelerator, to be copied in swizzled boxes; what lies beyond reads as zero.
CUresult encode_tensor_map(CUtensorMap* map, const void* data, int dimensions, const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box);
// Boxes of 64 k x `box_rows` of a matrix (rows, stride). False: the accelerator cannot read it, or the driver has no such call.
bool make_tensor_map(CUtensorMap* map, const bf16* matrix, int64_t rows, int64_t stride, int box_rows);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define NC_CLUSTER(blocks) __cluster_dims__(blocks, 1, 1)
#else
#define NC_CLUSTER(blocks)
#endif

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

NC_DEVICE int blocks() { return static_cast<int>(gridDim.x); }

using Barrier = uint64_t;

NC_DEVICE void init_barrier(Barrier* b, int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory"); }
// Makes barriers that this thread initialised known to the cluster and to the accelerator.
NC_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives, and makes the phase wait for that many bytes more.
NC_DEVICE void expect_bytes(Barrier* b, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory"); }
NC_DEVICE void arrive(Barrier* b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
// Arrives at the barrier of the cluster's block `rank`. note: orders no ordinary accesses of other blocks; at cluster scope it
// would wait for all of this thread's memory traffic, and a product ran at half its speed.
NC_DEVICE void arrive_at(const Barrier* b, int rank) {
  asm volatile("{\n\t.reg .b32 remote;\n\tmapa.shared::cluster.u32 remote, %0, %1;\n\tmbarrier.arrive.shared::cluster.b64 _, [remote];\n\t}" ::"r"(shared_address(b)), "r"(rank) : "memory");
}
// Waits until the phase of this parity is over.
NC_DEVICE void wait_barrier(const Barrier* b, uint32_t parity) {
  asm volatile("{\n\t.reg .pred done;\n\tWAIT:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t@!done bra WAIT;\n\t}" ::"r"(shared_address(b)), "r"(parity) : "memory");
}

NC_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// note: orders no memory but barriers that were published.
NC_DEVICE void sync_cluster() { asm volatile("barrier.cluster.arrive.relaxed;\n\tbarrier.cluster.wait;" ::: "memory"); }

NC_DEVICE void prefetch_map(const CUtensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
NC_DEVICE void load_box(void* to, const CUtensorMap* map, int k, int row, Barrier* b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)), "l"(map), "r"(k),
               "r"(row), "r"(shared_address(b)) : "memory");
}
// To the same place of each block in `ranks`, reporting to the same barrier of each.
NC_DEVICE void load_box_for(uint16_t ranks, void* to, const CUtensorMap* map, int k, int row, Barrier* b) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
               "l"(map), "r"(k), "r"(row), "r"(shared_address(b)), "h"(ranks) : "memory");
}

template <int kRegisters> NC_DEVICE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters)); }
template <int kRegisters> NC_DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters)); }

// Of an operand; + 2 for each 16 k, + bytes / 16 for other rows. `panel_bytes` lie between its panels of 64 elements where rows
// run along k, else they are not used.
NC_DEVICE uint64_t describe_operand(const void* rows, int panel_bytes = 16) {
  constexpr uint64_t kSwizzled128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 / 16} << 32;
  return kSwizzled128 | kEightRows | static_cast<uint64_t>(panel_bytes / 16) << 16 | (shared_address(rows) & 0x3ffff) >> 4;
}

NC_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
NC_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending> NC_DEVICE void wait_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory"); }

// c (64, kColumns) = a (64, 16) b (kColumns, 16)^T, + c where `adds`. Warp w has rows 16 w..: as mma's c, columns 8 j.. in c[4 j..].
template <int kColumns> NC_DEVICE void multiply(float (&c)[kColumns / 2], uint64_t a, uint64_t b, int adds);

#define NC_C0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NC_C1 NC_C0 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NC_C2 NC_C1 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NC_C3 NC_C2 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NC_C4 NC_C3 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define NC_C5 NC_C4 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define NC_C6 NC_C5 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define NC_C7 NC_C6 ",%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define NC_8(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define NC_O0 NC_8(0), NC_8(8)
#define NC_O1 NC_O0, NC_8(16), NC_8(24)
#define NC_O2 NC_O1, NC_8(32), NC_8(40)
#define NC_O3 NC_O2, NC_8(48), NC_8(56)
#define NC_O4 NC_O3, NC_8(64), NC_8(72)
#define NC_O5 NC_O4, NC_8(80), NC_8(88)
#define NC_O6 NC_O5, NC_8(96)
#define NC_O7 NC_O6, NC_8(104), NC_8(112), NC_8(120)
// `numbers` and `operands`: the registers of c; `left`, `right`, `flag`: the operands after them
#define NC_MULTIPLY(columns, numbers, operands, left, right, flag)                                                                                        \
  template <> NC_DEVICE void multiply<columns>(float (&c)[columns / 2], uint64_t a, uint64_t b, int adds) {                                               \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " flag ", 0;\n\twgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" numbers "}, " left \
                 ", " right ", p, 1, 1, 0, 0;\n\t}" : operands : "l"(a), "l"(b), "r"(adds));                                                              \
  }
#define NC_LIST(...) __VA_ARGS__
NC_MULTIPLY(32, NC_C0, NC_LIST(NC_O0), "%16", "%17", "%18")
NC_MULTIPLY(64, NC_C1, NC_LIST(NC_O1), "%32", "%33", "%34")
NC_MULTIPLY(96, NC_C2, NC_LIST(NC_O2), "%48", "%49", "%50")
NC_MULTIPLY(128, NC_C3, NC_LIST(NC_O3), "%64", "%65", "%66")
NC_MULTIPLY(160, NC_C4, NC_LIST(NC_O4), "%80", "%81", "%82")
NC_MULTIPLY(192, NC_C5, NC_LIST(NC_O5), "%96", "%97", "%98")
NC_MULTIPLY(208, NC_C6, NC_LIST(NC_O6), "%104", "%105", "%106")
NC_MULTIPLY(256, NC_C7, NC_LIST(NC_O7), "%128", "%129", "%130")

#endif

}  // namespace cuda
}  // namespace nanochat
