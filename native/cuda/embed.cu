// x_t = norm(wte[id]), smeared with x_{t-1}; x0 = x                                             MODEL.md 1, first lines
// tokens (T), wte (V, C) -> x, x0 (T, C) float
// A block per token; its threads stride over C and read the rows twice, the second time from cache.
// Bound by latency: a few rows of some kilobytes.
#include "cuda/embed.h"
#include "cuda/rotate.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128;

NC_KERNEL(kThreads) embed_kernel(Embed a) {
  float* scratch = static_cast<float*>(shared_memory());
  start_next();
  wait_for_previous();
  const Embedding x(a, a.tokens[block_x()], scratch);
  for (int c = thread(); c < a.C; c += threads()) {
    const int64_t at = static_cast<int64_t>(block_x()) * a.C + c;
    const float v = x.at(c);
    a.x[at] = v;
    a.x0[at] = v;
  }
}

NC_KERNEL(kThreads) rope_table_kernel(RopeTable a) {
  wait_for_previous();
  start_next();  // not before: later kernels of the step read tokens before their own wait
  const float position = static_cast<float>(a.tokens[block_x()].position);
  for (int i = thread(); i < a.half; i += threads()) {
    const Rotation r = rotation(a, position, i);
    const int64_t at = static_cast<int64_t>(block_x()) * a.half + i;
    a.cos[at] = r.cos;
    a.sin[at] = r.sin;
  }
}

}  // namespace

void embed(Stream& stream, const Embed& a, int64_t T_) { launch_overlapping(stream, "embed", embed_kernel, {T_}, kThreads, kThreads / kWarp * sizeof(float), a); }

void rope_table(Stream& stream, const RopeTable& a, int64_t T_) { launch_overlapping(stream, "rope_table", rope_table_kernel, {T_}, 64, 0, a); }

}  // namespace cuda
}  // namespace nanochat
