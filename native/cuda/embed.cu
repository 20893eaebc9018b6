// x_t = norm(wte[id]), smeared with x_{t-1}; x0 = x                                             MODEL.md 1, first lines
// tokens (T), wte (V, C) -> x, x0 (T, C) float
// A block per token; its threads stride over C and read the rows twice, the second time from cache.
// Bound by latency: a few rows of some kilobytes.
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kSmearChannels = 24;

NC_DEVICE float inverse_rms(const void* row, bool is_bf16, int C, float eps, float* scratch) {
  float squares = 0;
  for (int c = thread(); c < C; c += threads()) {
    const float v = element(row, is_bf16, c);
    squares += v * v;
  }
  return rsqrtf(block_sum(squares, scratch) / static_cast<float>(C) + eps);
}

NC_DEVICE const void* row_of(const Embed& a, int id) {
  return static_cast<const unsigned char*>(a.wte) + static_cast<int64_t>(id) * a.C * (a.wte_is_bf16 ? 2 : 4);
}

NC_KERNEL(kThreads) embed_kernel(Embed a) {
  float* scratch = static_cast<float*>(shared_memory());
  start_next();
  wait_for_previous();
  const Token token = a.tokens[block_x()];
  const void* row = row_of(a, token.id);
  const void* before = row;
  const float scale = inverse_rms(row, a.wte_is_bf16, a.C, a.eps, scratch);
  float smear = 0;
  if (a.smear_gate && token.previous >= 0) {
    before = row_of(a, token.previous);
    float dot = 0;
    for (int c = 0; c < kSmearChannels; c++) dot += a.smear_gate[c] * element(row, a.wte_is_bf16, c) * scale;
    smear = a.smear_lambda * sigmoid(dot) * inverse_rms(before, a.wte_is_bf16, a.C, a.eps, scratch);
  }
  for (int c = thread(); c < a.C; c += threads()) {
    float v = element(row, a.wte_is_bf16, c) * scale;
    if (smear != 0) v += smear * element(before, a.wte_is_bf16, c);
    const int64_t at = static_cast<int64_t>(block_x()) * a.C + c;
    a.x[at] = v;
    a.x0[at] = v;
  }
}

NC_KERNEL(kThreads) rope_table_kernel(RopeTable a) {
  wait_for_previous();
  start_next();  // not before: later kernels of the step read tokens before their own wait
  const float position = static_cast<float>(a.tokens[block_x()].position);
  for (int i = thread(); i < a.half; i += threads()) {
    const float angle = position * a.inv_freq[i];
    const CosSin exact = cos_sin(static_cast<double>(angle));
    float c = static_cast<float>(exact.cos), s = static_cast<float>(exact.sin);
    if (a.round_to_bf16) {
      c = widen(round_bf16(c));
      s = widen(round_bf16(s));
    }
    const int64_t at = static_cast<int64_t>(block_x()) * a.half + i;
    a.cos[at] = c;
    a.sin[at] = s;
  }
}

}  // namespace

void embed(Stream& stream, const Embed& a, int64_t T_) { launch_overlapping(stream, "embed", embed_kernel, {T_}, kThreads, kThreads / kWarp * sizeof(float), a); }

void rope_table(Stream& stream, const RopeTable& a, int64_t T_) { launch_overlapping(stream, "rope_table", rope_table_kernel, {T_}, 64, 0, a); }

}  // namespace cuda
}  // namespace nanochat
