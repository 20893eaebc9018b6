// The slow twin of every kernel of kernels.h: the equation as it reads, in float64, over host memory.
#pragma once
#include "cuda/kernels.h"

namespace nanochat {
namespace cuda {
namespace reference {

void embed(const Embed& a, int64_t T_);
void rope_table(const RopeTable& a, int64_t T_);
template <class T> void mix_norm(const MixNorm<T>& a, int64_t rows);
template <class T> void matmul(const Matmul<T>& a);
template <class T> void append_kv(const AppendKv<T>& a, int64_t T_);
template <class T> void attention(const Attention<T>& a, int64_t T_);
void sample(const Sample& a);

}  // namespace reference
}  // namespace cuda
}  // namespace nanochat
