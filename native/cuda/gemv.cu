// y = epilogue(x w^T) for 1 to 4 rows, with the norm before it    MODEL.md 1: every linear layer while decoding
// x (rows, k) T, or x (rows, C) float of which the norm is taken; w (outputs, k) T -> y (rows, outputs)
// One block per processor owns consecutive outputs; every block takes the norm itself, the first one stores it. A team of
// warps has a few outputs for all rows and reads their weights once. They pass through a ring in shared memory in which every
// lane has places of its own, 16 bytes each, and which it begins to fill before x is there.
// Bound by reading w, at small models by the chain of launches.
#include "cuda/device.h"
#include "cuda/epilogue.h"
#include "cuda/kernels.h"
#include "cuda/mixed.h"
#include "cuda/ring.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kWarps = kGemvWarps, kThreads = kWarps * kWarp;
constexpr int kPieceParts = 2;                  // 16 bytes each, of a lane
constexpr int kPieces = 4;                      // in the ring
constexpr int kRingBytes = kPieces * kPieceParts * 16 * kThreads;
constexpr int64_t kMostXBytes = 32 << 10;       // of x in shared memory
constexpr int kScratch = kWarps * kGemvRows * kGemvMostOutputs;  // floats

template <class T> struct Gemv {
  Matmul<T> a;
  MixNorm<T> norm;
  GemvPlan plan;
};

template <class T> bool gemv_fits(int rows, int64_t stride) { return rows <= kGemvRows && rows * stride * static_cast<int64_t>(sizeof(T)) <= kMostXBytes; }

// y of kRows rows and kOutputs outputs from a team's sums; those of its other warps come through `scratch`.
template <class T, int kRows, int kOutputs> NC_DEVICE void finish_team(const Gemv<T>& g, const float (&sum)[kRows][kOutputs], int output, int end, float* scratch) {
  constexpr int kSums = kRows * kOutputs;
  float mine = 0;
  NC_UNROLL
  for (int i = 0; i < kSums; i++) {
    const float total = warp_sum(sum[i / kOutputs][i % kOutputs]);
    if (lane() == i) mine = total;
  }
  if (g.plan.team > 1) {
    sync_block();
    if (lane() < kSums) scratch[warp() * kSums + lane()] = mine;
    sync_block();
    if (warp() % g.plan.team != 0) return;
    for (int w = 1; w < g.plan.team && lane() < kSums; w++) mine += scratch[(warp() + w) * kSums + lane()];
  }
  if (lane() < kSums && output + lane() % kOutputs < end) finish(g.a, lane() / kOutputs, output + lane() % kOutputs, mine);
}

template <class T, int kRows, int kOutputs, bool kNorm> NC_HALF_KERNEL(kThreads) gemv_kernel(Gemv<T> g) {
  using Part = Chunk<T>;
  constexpr int kDeep = kPieceParts / kOutputs;  // parts of an output in a piece
  const Matmul<T>& a = g.a;
  const int stride = static_cast<int>(a.stride), chunks = stride / Part::kCount;
  const int first = block_x() * g.plan.per_block, count = first + g.plan.per_block < a.outputs ? g.plan.per_block : a.outputs - first;
  const int team = warp() / g.plan.team, teams = kWarps / g.plan.team, step = g.plan.team * kWarp, own = warp() % g.plan.team * kWarp + lane();
  const int rounds = static_cast<int>(divide_up(count, teams * kOutputs));
  float* scratch = static_cast<float*>(shared_memory());
  Part* ring = reinterpret_cast<Part*>(scratch + kScratch) + thread();
  T* x = reinterpret_cast<T*>(scratch + kScratch + kRingBytes / sizeof(float));  // (rows, stride)
  const Part* weights = reinterpret_cast<const Part*>(a.w + first * a.stride);

  RingPlace<kPieces> asked;
  const auto ask = [&] {  // for the next piece; what it is copied over was read before
    const int output = (asked.item * teams + team) * kOutputs;
    NC_UNROLL
    for (int i = 0; i < kPieceParts && asked.item < rounds; i++) {
      const int from = asked.from + i / kOutputs * step + own, at = output + i % kOutputs;
      const bool is_there = from < chunks && at < count;
      copy_async(ring + (asked.slot * kPieceParts + i) * kThreads, weights + (is_there ? at * chunks + from : 0), is_there);
    }
    commit_copies();
    asked.advance(kDeep * step, chunks);
  };
  for (int i = 0; i < kPieces; i++) ask();
  wait_for_previous();

  if (kNorm) {
    take_norm<T, kRows, kThreads>(g.norm, a.stride, x, scratch);
  } else {
    for (int i = thread(); i < kRows * chunks; i += kThreads) reinterpret_cast<Part*>(x)[i] = reinterpret_cast<const Part*>(a.x)[i];
  }
  sync_block();
  start_next();  // note: not before x is here, or the next kernel's weights delay this one's

  float sum[kRows][kOutputs] = {};
  for (RingPlace<kPieces> piece; piece.item < rounds;) {
    wait_copies<kPieces - 1>();
    const int round = piece.item;
    NC_UNROLL
    for (int d = 0; d < kDeep; d++) {
      const int from = piece.from + d * step + own;
      if (from >= chunks) continue;
      Part part[kOutputs];
      NC_UNROLL
      for (int o = 0; o < kOutputs; o++) part[o] = ring[(piece.slot * kPieceParts + d * kOutputs + o) * kThreads];
      NC_UNROLL
      for (int r = 0; r < kRows; r++) {
        const Part values = reinterpret_cast<const Part*>(x + r * stride)[from];
        NC_UNROLL
        for (int e = 0; e < Part::kCount; e++) {
          const float v = widen(values.at[e]);
          NC_UNROLL
          for (int o = 0; o < kOutputs; o++) sum[r][o] += v * widen(part[o].at[e]);
        }
      }
    }
    ask();
    piece.advance(kDeep * step, chunks);
    if (piece.item == round) continue;
    finish_team<T, kRows, kOutputs>(g, sum, first + (round * teams + team) * kOutputs, first + count, scratch);
    NC_UNROLL
    for (int i = 0; i < kRows * kOutputs; i++) sum[i / kOutputs][i % kOutputs] = 0;
  }
  wait_copies<0>();
}

template <class T, int kRows, bool kNorm> void launch_gemv(Stream& stream, const Matmul<T>& a, const MixNorm<T>& norm) {
  const Gemv<T> g{a, norm, gemv_plan(a.outputs, a.stride * static_cast<int64_t>(sizeof(T)) / 16, stream.processors())};
  const size_t shared_bytes = kScratch * sizeof(float) + kRingBytes + static_cast<size_t>(kRows * a.stride) * sizeof(T);
  const Blocks blocks{divide_up(a.outputs, g.plan.per_block)};
  if (g.plan.outputs == 1) return launch_overlapping(stream, "gemv", gemv_kernel<T, kRows, 1, kNorm>, blocks, kThreads, shared_bytes, g);
  launch_overlapping(stream, "gemv", gemv_kernel<T, kRows, 2, kNorm>, blocks, kThreads, shared_bytes, g);
}

template <class T, bool kNorm> void launch_rows(Stream& stream, const Matmul<T>& a, const MixNorm<T>& norm) {
  switch (a.rows) {
    case 1: return launch_gemv<T, 1, kNorm>(stream, a, norm);
    case 2: return launch_gemv<T, 2, kNorm>(stream, a, norm);
    case 3: return launch_gemv<T, 3, kNorm>(stream, a, norm);
    case 4: return launch_gemv<T, 4, kNorm>(stream, a, norm);
  }
}

}  // namespace

template <class T> void gemv(Stream& stream, const Matmul<T>& a) { launch_rows<T, false>(stream, a, {}); }
template <class T> void gemv_of_norm(Stream& stream, const Matmul<T>& a, const MixNorm<T>& norm) { launch_rows<T, true>(stream, a, norm); }

template <> void matmul<float>(Stream& stream, const Matmul<float>& a) {
  if (gemv_fits<float>(a.rows, a.stride)) gemv(stream, a);
  else gemm_float(stream, a);
}

template <> void matmul<bf16>(Stream& stream, const Matmul<bf16>& a) {
  if (gemv_fits<bf16>(a.rows, a.stride)) gemv(stream, a);
  else if (is_skinny(a.rows, a.outputs, stream.processors())) skinny(stream, a);
  else gemm(stream, a);
}

template <class T> void matmul_of_norm(Stream& stream, const Matmul<T>& a, const MixNorm<T>& norm) {
  if (gemv_fits<T>(a.rows, a.stride) && a.stride <= kNormElements * kThreads) return gemv_of_norm(stream, a, norm);
  mix_norm(stream, norm, a.rows);
  matmul(stream, a);
}

template void gemv<float>(Stream&, const Matmul<float>&);
template void gemv<bf16>(Stream&, const Matmul<bf16>&);
template void gemv_of_norm<float>(Stream&, const Matmul<float>&, const MixNorm<float>&);
template void gemv_of_norm<bf16>(Stream&, const Matmul<bf16>&, const MixNorm<bf16>&);
template void matmul_of_norm<float>(Stream&, const Matmul<float>&, const MixNorm<float>&);
template void matmul_of_norm<bf16>(Stream&, const Matmul<bf16>&, const MixNorm<bf16>&);

}  // namespace cuda
}  // namespace nanochat
