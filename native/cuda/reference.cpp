#include "cuda/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

namespace nanochat {
namespace cuda {
namespace reference {

namespace {

double element(const void* row, bool is_bf16, int64_t i) { return is_bf16 ? to_float(static_cast<const bf16*>(row)[i]) : static_cast<const float*>(row)[i]; }

template <class T> T rounded(double x) { return from_float<T>(static_cast<float>(x)); }

double inverse_rms(const std::vector<double>& x, double eps) {
  return 1 / std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size()) + eps);
}

std::vector<double> normed_row(const Embed& a, int id) {
  std::vector<double> x;
  for (int c = 0; c < a.C; c++) x.push_back(element(a.wte, a.wte_is_bf16, static_cast<int64_t>(id) * a.C + c));
  const double scale = inverse_rms(x, a.eps);
  for (double& v : x) v *= scale;
  return x;
}

// How many of the ids in `order` it takes for their probabilities to reach top_p.
size_t nucleus(const std::vector<float>& values, const std::vector<int>& order, double top_p) {
  const double max = values[static_cast<size_t>(order[0])];
  double total = 0, sum = 0;
  for (int id : order) total += std::exp(values[static_cast<size_t>(id)] - max);
  for (size_t i = 0; i < order.size(); i++) {
    sum += std::exp(values[static_cast<size_t>(order[i])] - max) / total;
    if (sum >= top_p) return i + 1;
  }
  return order.size();
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

void embed(const Embed& a, int64_t T_) {
  for (int64_t t = 0; t < T_; t++) {
    std::vector<double> x = normed_row(a, a.tokens[t].id);
    if (a.smear_gate && a.tokens[t].previous >= 0) {
      const std::vector<double> before = normed_row(a, a.tokens[t].previous);
      double dot = 0;
      for (int c = 0; c < 24; c++) dot += a.smear_gate[c] * x[static_cast<size_t>(c)];
      for (int c = 0; c < a.C; c++) x[static_cast<size_t>(c)] += a.smear_lambda * sigmoid(dot) * before[static_cast<size_t>(c)];
    }
    for (int c = 0; c < a.C; c++) a.x[t * a.C + c] = a.x0[t * a.C + c] = static_cast<float>(x[static_cast<size_t>(c)]);
  }
}

void rope_table(const RopeTable& a, int64_t T_) {
  for (int64_t t = 0; t < T_; t++) {
    for (int i = 0; i < a.half; i++) {
      const float angle = static_cast<float>(a.tokens[t].position) * a.inv_freq[i];
      const float c = static_cast<float>(std::cos(static_cast<double>(angle))), s = static_cast<float>(std::sin(static_cast<double>(angle)));
      a.cos[t * a.half + i] = a.round_to_bf16 ? to_float(to_bf16(c)) : c;
      a.sin[t * a.half + i] = a.round_to_bf16 ? to_float(to_bf16(s)) : s;
    }
  }
}

template <class T> void mix_norm(const MixNorm<T>& a, int64_t rows) {
  for (int64_t r = 0; r < rows; r++) {
    const int64_t row = a.picked ? a.picked[r] : r;
    std::vector<double> x;
    for (int c = 0; c < a.C; c++) {
      const double own = a.x[row * a.C + c];
      x.push_back(a.mixed ? static_cast<double>(a.resid) * own + static_cast<double>(a.mixed_lambda) * a.mixed[row * a.C + c] : own);
    }
    const double scale = inverse_rms(x, a.eps);
    for (int c = 0; c < a.C; c++) {
      if (a.x_out) a.x_out[row * a.C + c] = static_cast<float>(x[static_cast<size_t>(c)]);
      a.n[r * a.n_stride + c] = rounded<T>(x[static_cast<size_t>(c)] * scale);
    }
  }
}

template <class T> void matmul(const Matmul<T>& a) {
  for (int r = 0; r < a.rows; r++) {
    for (int o = 0; o < a.outputs; o++) {
      double v = 0;
      for (int64_t k = 0; k < a.stride; k++) v += static_cast<double>(to_float(a.x[r * a.stride + k])) * to_float(a.w[o * a.stride + k]);
      const int64_t at = r * a.y_stride + o;
      float* y = static_cast<float*>(a.y);
      switch (a.epilogue) {
        case Epilogue::store: y[at] = static_cast<float>(v); break;
        case Epilogue::add: y[at] = static_cast<float>(y[at] + v); break;
        case Epilogue::softcap: y[at] = static_cast<float>(a.cap * std::tanh(v / a.cap)); break;
        case Epilogue::relu2: static_cast<T*>(a.y)[at] = rounded<T>(v > 0 ? v * v : 0); break;
      }
    }
  }
}

template <class T> void append_kv(const AppendKv<T>& a, int64_t T_) {
  const int half = a.D / 2;
  for (int64_t t = 0; t < T_; t++) {
    const float* x = a.qkv + t * (a.H + 2 * a.K) * a.D;
    const Token& token = a.tokens[t];
    const auto place = [&](int value, int head) { return head_cache<T>(a.rows[token.row], a.layer, value, a.K, head, a.Dp) + static_cast<int64_t>(token.position) * a.Dp; };
    const auto rotate = [&](const float* from, T* out) {
      std::vector<double> turned(static_cast<size_t>(a.D));
      for (int i = 0; i < half; i++) {
        const double c = a.cos[t * half + i], s = a.sin[t * half + i];
        turned[static_cast<size_t>(i)] = from[i] * c + from[half + i] * s;
        turned[static_cast<size_t>(half + i)] = from[half + i] * c - from[i] * s;
      }
      const double factor = a.scale * inverse_rms(turned, a.eps);
      for (int d = 0; d < a.Dp; d++) out[d] = rounded<T>(d < a.D ? turned[static_cast<size_t>(d)] * factor : 0);
    };
    for (int h = 0; h < a.H; h++) rotate(x + h * a.D, a.q + (t * a.H + h) * a.Dp);
    for (int h = 0; h < a.K; h++) {
      rotate(x + (a.H + h) * a.D, place(0, h));
      double gate = 0;
      if (a.value_embeds) {
        double dot = 0;
        for (int c = 0; c < a.g; c++) dot += static_cast<double>(a.ve_gate[h * a.g + c]) * to_float(a.n[t * a.n_stride + c]);
        gate = a.m * sigmoid(dot);
      }
      const float* v = x + (a.H + a.K + h) * a.D;
      for (int d = 0; d < a.Dp; d++) {
        const double embedding = a.value_embeds && d < a.D ? gate * element(a.value_embeds, a.value_embeds_is_bf16, (static_cast<int64_t>(token.id) * a.K + h) * a.D + d) : 0;
        place(1, h)[d] = rounded<T>(d < a.D ? v[d] + embedding : 0);
      }
    }
  }
}

template <class T> void attention(const Attention<T>& a, int64_t T_) {
  for (int64_t t = 0; t < T_; t++) {
    const Token& token = a.tokens[t];
    const int first = a.window < 0 ? 0 : std::max(0, token.position - a.window);
    for (int h = 0; h < a.H; h++) {
      const T* keys = head_cache<T>(a.rows[token.row], a.layer, 0, a.K, h / (a.H / a.K), a.Dp);
      const T* values = head_cache<T>(a.rows[token.row], a.layer, 1, a.K, h / (a.H / a.K), a.Dp);
      const T* q = a.q + (t * a.H + h) * a.Dp;
      std::vector<double> p;
      for (int key = first; key <= token.position; key++) {
        double dot = 0;
        for (int d = 0; d < a.D; d++) dot += static_cast<double>(to_float(q[d])) * to_float(keys[static_cast<int64_t>(key) * a.Dp + d]);
        p.push_back(dot * a.scale);
      }
      const double largest = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& v : p) sum += v = std::exp(v - largest);
      for (int d = 0; d < a.D; d++) {
        double out = 0;
        for (size_t i = 0; i < p.size(); i++) out += p[i] * to_float(values[(first + static_cast<int64_t>(i)) * a.Dp + d]);
        a.y[t * a.y_stride + h * a.D + d] = rounded<T>(out / sum);
      }
    }
  }
}

void sample(const Sample& a) {
  for (int row = 0; row < a.B; row++) {
    Draw& draw = a.draws[row];
    if (draw.steps_left == 0) continue;
    std::vector<float> values(a.logits + static_cast<int64_t>(row) * a.V, a.logits + static_cast<int64_t>(row + 1) * a.V);
    if (draw.temperature != 0) for (float& v : values) v /= draw.temperature;
    std::vector<int> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int x, int y) { return values[static_cast<size_t>(x)] > values[static_cast<size_t>(y)]; });
    if (draw.temperature == 0) order.resize(1);
    else if (draw.top_k > 0 && draw.top_k < a.V) order.resize(static_cast<size_t>(draw.top_k));
    if (draw.temperature != 0 && draw.top_p < 1) order.resize(nucleus(values, order, draw.top_p));
    const double max = values[static_cast<size_t>(order[0])];
    order.erase(std::remove_if(order.begin(), order.end(), [&](int id) { return std::exp(values[static_cast<size_t>(id)] - max) < draw.min_p; }), order.end());
    std::sort(order.begin(), order.end());
    Token& token = a.tokens[row];
    int best = order[0];
    float most = -INFINITY;
    for (int id : order) {
      const PhiloxWords words = philox(draw.seed_low, draw.seed_high, static_cast<uint32_t>(id) / 4, static_cast<uint32_t>(draw.stream), static_cast<uint32_t>(token.position + 1), 0);
      const float g = static_cast<float>(-std::log(-std::log((words.word[id % 4] + 0.5) * 0x1p-32)));
      if (values[static_cast<size_t>(id)] + g > most) {
        most = values[static_cast<size_t>(id)] + g;
        best = id;
      }
    }
    a.drawn[static_cast<int64_t>(draw.taken++) * a.B + row] = best;
    const bool pauses = std::find(a.pause_ids + 1, a.pause_ids + 1 + a.pause_ids[0], best) != a.pause_ids + 1 + a.pause_ids[0];
    draw.steps_left = pauses ? 0 : draw.steps_left - 1;
    if (draw.steps_left > 0) token = {best, token.id, token.position + 1, token.row};
  }
}

template void mix_norm<float>(const MixNorm<float>&, int64_t);
template void mix_norm<bf16>(const MixNorm<bf16>&, int64_t);
template void matmul<float>(const Matmul<float>&);
template void matmul<bf16>(const Matmul<bf16>&);
template void append_kv<float>(const AppendKv<float>&, int64_t);
template void append_kv<bf16>(const AppendKv<bf16>&, int64_t);
template void attention<float>(const Attention<float>&, int64_t);
template void attention<bf16>(const Attention<bf16>&, int64_t);

}  // namespace reference
}  // namespace cuda
}  // namespace nanochat
