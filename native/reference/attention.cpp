// out = softmax(scale * q K^T) V over keys first..last       MODEL.md 1: attention(q, k, v), causal, window w(l)
// q (rows, D) T, pages of 64 keys: K (D / step, 64, step) T and V (64 / step, value_dim(D), step) T -> out (rows, D) T
#include <algorithm>
#include <cmath>
#include <vector>

#include "reference/reference.h"

namespace nanochat {
namespace reference {

namespace {

// Where element d of the key or the value in `slot` lies, from the start of the head's keys or values.
template <class T> int64_t key_at(int slot, int d) { return (d / kStep<T> * kPage + slot) * kStep<T> + d % kStep<T>; }
template <class T> int64_t value_at(int slot, int d, int D) {
  return (static_cast<int64_t>(slot / kStep<T>) * value_dim(D) + d) * kStep<T> + slot % kStep<T>;
}

}  // namespace

template <class T> void attention_tile(const AttentionTile<T>& a) {
  const int D = a.head_dim;
  for (int r = 0; r < a.rows; r++) {
    const T* q = a.q + r * a.q_stride;
    const int64_t first = a.seen[r].first, last = a.seen[r].last;
    const auto page = [&](int64_t key) { return static_cast<const T*>(a.pages[key / kPage]); };
    const auto slot = [](int64_t key) { return static_cast<int>(key % kPage); };

    std::vector<double> p;  // scores, then exponentials; key `first` at 0
    for (int64_t key = first; key <= last; key++) {
      double score = 0;
      for (int d = 0; d < D; d++) score += static_cast<double>(to_float(q[d])) * to_float(page(key)[a.k_offset + key_at<T>(slot(key), d)]);
      p.push_back(score * a.scale);
    }
    const double largest = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& score : p) sum += score = std::exp(score - largest);

    for (int d = 0; d < D; d++) {
      double out = 0;
      for (int64_t key = first; key <= last; key++) out += p[static_cast<size_t>(key - first)] * to_float(page(key)[a.v_offset + value_at<T>(slot(key), d, D)]);
      a.out[r * a.out_stride + d] = from_float<T>(static_cast<float>(out / sum));
    }
  }
}

// note: lanes D..value_dim(D) are zero, and so is the other half of a value's pair until its own key comes: the kernels
// read both with weight 0.
template <class T> void append_kv(const float* k, const float* v, int D, int slot, T* k_page, T* v_page) {
  for (int d = 0; d < D; d++) k_page[key_at<T>(slot, d)] = from_float<T>(k[d]);
  for (int d = 0; d < value_dim(D); d++) {
    v_page[value_at<T>(slot, d, D)] = from_float<T>(d < D ? v[d] : 0.0f);
    if (kStep<T> == 2 && slot % 2 == 0) v_page[value_at<T>(slot + 1, d, D)] = from_float<T>(0.0f);
  }
}

template void attention_tile<float>(const AttentionTile<float>&);
template void attention_tile<bf16>(const AttentionTile<bf16>&);
template void append_kv<float>(const float*, const float*, int, int, float*, float*);
template void append_kv<bf16>(const float*, const float*, int, int, bf16*, bf16*);

}  // namespace reference
}  // namespace nanochat
