// The CPU kernels, one table of functions per instruction set. T is float or bf16: the type of weights, of activations
// that enter a product, and of the KV cache. Everything accumulates in float32.
//
// Accumulation contract: every output of a product is one chain of fused multiply-adds over ascending k in one lane
// (for bf16 a chain over pairs), whatever the number of rows in the call. So an output does not depend on its batch.
#pragma once
#include <cstdint>
#include <type_traits>

#include "model/bf16.h"

namespace nanochat {

constexpr int kPanel = 64;  // outputs whose weights are packed together: 4 AVX-512 vectors
constexpr int kRowBlock = 48;    // rows of a product that one call takes at most
constexpr int kStreamRows = 12;  // few of them: memory bounds their products
constexpr int kPage = 64;        // keys in one page of the KV cache
constexpr int64_t pages_of(int64_t length) { return (length + kPage - 1) / kPage; }

// How far ahead of its loads a kernel that streams from memory asks for its data: enough to cover the memory's latency at
// its full speed, and little enough to stay in the first cache until it is used.
constexpr int kAheadBytes = 8192;

// Elements of k that one step of a chain takes.
template <class T> constexpr int kStep = 1;
template <> constexpr int kStep<bf16> = 2;

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// A packed panel holds, for each step of k, the step's elements of its 64 outputs: (K / step, 64, step).
template <class T> constexpr int64_t panel_elements(int k) { return static_cast<int64_t>(round_up(k, kStep<T>)) * kPanel; }

enum class Epilogue {
  store,    // y = v                                 float
  add,      // y = y + v                             float
  relu2,    // y = relu(v)^2                         T
  softcap,  // y = cap * tanh(v / cap)               float
};

// y[r][n] = epilogue(sum_k x[r][k] * w[n][k]) for the outputs n of one panel, or of several that follow each other in w and in y
template <class T> struct MatmulPanel {
  const T* x;        // (rows, k), rows x_stride elements apart; k is a multiple of the step
  int64_t x_stride;
  const T* w;        // packed panel
  void* y;           // (rows, outputs) at this panel's first output, rows y_stride elements apart
  int64_t y_stride;
  int rows, k;
  int outputs;       // 1..64 real ones in the last panel; the others have 64
  Epilogue epilogue;
  float cap;
  int ahead_bytes;   // how far ahead of its loads one row asks for the panel, and what lies behind it; 0, and always where streams > 1: leaves that to the processor
  int panels;        // 1..Kernels::streams
};

// Weights of few bits. A panel is a sequence of groups along k, each with one scale for each of its 64 outputs; weight =
// scale * code. A group: 64 bf16 scales, then the codes. For int8 they are bytes q + 128, q = -127..127, (G / 4, 64, 4).
// For int4 they are indices into kInt4Codes, two in a byte, (G / 8, 64, 4): the lower half at k, the upper at k + 4.
enum class WeightFormat { int8, int4 };

constexpr int group_size(WeightFormat format) { return format == WeightFormat::int8 ? 64 : 32; }
constexpr int64_t group_bytes(WeightFormat format) { return kPanel * (2 + group_size(format) / (format == WeightFormat::int8 ? 1 : 2)); }
constexpr int64_t groups_of(WeightFormat format, int k) { return (k + group_size(format) - 1) / group_size(format); }
constexpr int64_t panel_bytes(WeightFormat format, int k) { return groups_of(format, k) * group_bytes(format); }

// The 16 weights of int4, before the scale: the levels of least squared error for normally distributed weights whose
// largest in 32 has the first or the last level. note: the scale may be negative.
constexpr int kInt4Codes[16] = {-127, -101, -79, -62, -47, -34, -21, -9, 2, 14, 25, 37, 50, 65, 83, 107};

// One group of a quantised row of activations: x = scale * value.
struct ActivationGroup {
  float scale;
  int32_t offset;  // -128 * the sum of its values: what weights stored as q + 128 add too much
};

// Rows of activations in groups of `group` values, the last one filled up with zeros.
struct QuantizedRows {
  int8_t* values;           // (rows, stride)
  ActivationGroup* groups;  // (rows, stride / group)
  int64_t stride;           // a multiple of group
  int64_t groups_stride;    // stride / group
  int group;
  QuantizedRows at(int64_t row, int64_t column) const {
    return {values + row * stride + column, groups + row * groups_stride + column / group, stride, groups_stride, group};
  }
};

// y[r][n] = epilogue(sum over groups of w_scale[n] * x_scale[r] * sum_k q[n][k] * x[r][k]): the inner sum in integers, the
// outer one chain of fused multiply-adds over ascending groups
struct QuantizedPanel {
  QuantizedRows x;   // values of -127..127 in the format's groups
  const uint8_t* w;  // packed panel
  void* y;           // as in MatmulPanel; not used by relu2
  int64_t y_stride;
  QuantizedRows hidden;  // where relu2 writes, in groups of 32 or 64; all 64 columns exist
  int rows;              // 1..kRowBlock
  int64_t groups;
  int outputs;
  Epilogue epilogue;
  float cap;
  int panels;            // as in MatmulPanel; they follow each other in hidden too. 1 for more than kStreamRows rows
};

// One query head at one position. It sees keys first..last (inclusive, absolute positions).
struct AttentionRow {
  int64_t first, last;
};

// out[r] = softmax(scale * q[r] . k) v for rows that share one kv head; first and last ascend with r
template <class T> struct AttentionTile {
  const T* q;                // (rows, D), rows q_stride elements apart
  int64_t q_stride;
  T* out;                    // like q
  int64_t out_stride;
  const AttentionRow* seen;  // (rows)
  int rows;                  // 1..kAttentionRows
  int head_dim;              // D, even
  float scale;
  const void* const* pages;  // page p holds keys 64p..64p+63
  int64_t k_offset;          // elements from a page's start to this head's keys (D / step, 64, step)
  int64_t v_offset;          // and to its values (64 / step, value_dim(D), step)
  const void* next;          // what will be read after these keys and values: one row asks for its beginning, but not with AVX2
};

constexpr int kAttentionRows = 12;  // rows of an attention tile

constexpr int value_dim(int head_dim) { return round_up(head_dim, 16); }

template <class T> struct KernelsOf {
  void (*matmul_panel)(const MatmulPanel<T>& a);

  void (*attention_tile)(const AttentionTile<T>& a);

  // out = norm(x): x * rsqrt(mean(x^2) + eps); x (C), out (C)
  void (*rms_norm)(const float* x, int C, float eps, T* out);

  // Writes the key k (D) and the value v (D) of one kv head to slot 0..63 of a page.
  void (*append_kv)(const float* k, const float* v, int D, int slot, T* k_page, T* v_page);

  // v[d] += gate * row[d] with gate = m * sigmoid(sum_{c<g} gate_weight[c] * n[c]); row is bf16 or float
  void (*gated_value)(float* v, const void* row, bool row_is_bf16, int D, const float* gate_weight, const T* n, int g, float m);

  // out (D) = rounded x (D)
  void (*convert)(const float* x, int64_t count, T* out);
};

struct QuantizedKernels {
  // values = x / scale to the nearest, scale = the group's largest |x| / 127; k up to the last group's end is zero
  void (*quantize)(const float* x, int k, const QuantizedRows& row);

  void (*matmul_int8)(const QuantizedPanel& a);
  void (*matmul_int4)(const QuantizedPanel& a);
};

// Loops that run at the machine's limits (cpu/probe.h).
struct ProbeKernels {
  float (*read)(const float* data, int64_t count, int streams);  // streams: 4, 1, or 0 for one asked for ahead
  double (*f32_products)(const float* x, const float* start, int64_t steps, float* sum);
  double (*b16_products)(const bf16* x, const float* start, int64_t steps, float* sum);
  double (*i8_products)(const int8_t* x, const float* start, int64_t steps, float* sum);
};

struct Kernels {
  const char* isa;
  int streams;  // panels that one call of a product takes at most: of a core that reads several places faster than one, more than 1
  KernelsOf<float> f32;
  KernelsOf<bf16> b16;
  QuantizedKernels quantized;

  // x = norm(row): a table row of bf16 or float32 to float32 (C)
  void (*embed)(const void* row, bool row_is_bf16, int C, float eps, float* x);

  // x (C) = resid * x + x0_lambda * x0
  void (*mix)(float* x, const float* x0, int C, float resid, float x0_lambda);

  // x (D) = scale * norm(rope(x)) in place; cos, sin (D / 2)
  void (*rope_norm)(float* x, const float* cos, const float* sin, int D, float eps, float scale);

  ProbeKernels probe;

  template <class T> const KernelsOf<T>& of() const;
};

template <> inline const KernelsOf<float>& Kernels::of<float>() const { return f32; }
template <> inline const KernelsOf<bf16>& Kernels::of<bf16>() const { return b16; }

// Panels that one call takes, at most, of a product of so many rows. Few rows read faster where it is several. More rows read a panel
// faster at one stretch, unless they are those of many calls: then x comes from larger caches, and several panels read it from there once.
template <class A> int panels_at_once(const Kernels& kernels, int64_t rows) {
  const bool is_quantized = std::is_same<A, QuantizedPanel>::value;  // whose products are slower than either
  return rows <= kStreamRows || (rows > kRowBlock && !is_quantized) ? kernels.streams : 1;
}

// The table named `isa`, or the best one of this machine when `isa` is null or empty; null when the machine lacks it.
const Kernels* find_kernels(const char* isa);

// The names of the tables this machine can run, best first; count of them.
int list_kernels(const char* names[8]);

}  // namespace nanochat
