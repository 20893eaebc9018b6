// A token's embedding, smeared with the one before it        MODEL.md 1, first lines
#pragma once
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {

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

// x = norm(wte[id]) + smear * norm(wte[previous]), by a block; `scratch` has room for one float per warp.
struct Embedding {
  const void *row, *before;
  bool is_bf16;
  float scale, smear;

  NC_DEVICE Embedding(const Embed& a, const Token& token, float* scratch) {
    row = before = row_of(a, token.id);
    is_bf16 = a.wte_is_bf16;
    scale = inverse_rms(row, is_bf16, a.C, a.eps, scratch);
    smear = 0;
    if (!a.smear_gate || token.previous < 0) return;
    before = row_of(a, token.previous);
    float dot = 0;
    for (int c = 0; c < kSmearChannels; c++) dot += a.smear_gate[c] * element(row, is_bf16, c) * scale;
    smear = a.smear_lambda * sigmoid(dot) * inverse_rms(before, is_bf16, a.C, a.eps, scratch);
  }
  NC_DEVICE float at(int c) const {
    const float x = element(row, is_bf16, c) * scale;
    return smear != 0 ? x + smear * element(before, is_bf16, c) : x;
  }
};

}  // namespace cuda
}  // namespace nanochat
