// The kernels: what each is given, and the call that puts it on a stream. T is float or bf16: the type of weights, of
// activations that enter a product, and of the KV cache. Everything accumulates in float32.
//
// B rows, T tokens of the pass, C n_embd, H n_head, K n_kv_head, D head_dim, Dp head_dim padded (index.h), V vocabulary.
// A slot holds one sequence: (layer, key or value, K, capacity, Dp) T; elements D..Dp are zero.
#pragma once
#include <cstdint>
#include <vector>

#include "cuda/index.h"
#include "cuda/runtime.h"
#include "model/bf16.h"

namespace nanochat {
namespace cuda {

struct Token {
  int32_t id;
  int32_t previous;  // the id before it in its sequence, -1 at the start
  int32_t position;
  int32_t row;
};

struct Row {
  void* slot;
  int64_t capacity;
};

// Where the keys (value = 0) or values (1) of a head begin in its row's slot.
template <class T> NC_BOTH T* head_cache(const Row& row, int layer, int value, int kv_heads, int head, int Dp) {
  return static_cast<T*>(row.slot) + ((static_cast<int64_t>(layer) * 2 + value) * kv_heads + head) * row.capacity * Dp;
}

// x = norm(wte[id]);  x += smear_lambda * sigmoid(smear_gate . x[0:24]) * x_{t-1};  x0 = x
struct Embed {
  const Token* tokens;      // (T)
  const void* wte;          // (V, C) bf16 or float
  bool wte_is_bf16;
  int C;
  float eps;
  const float* smear_gate;  // (24); null: no smear
  float smear_lambda;
  float* x;                 // (T, C)
  float* x0;                // (T, C)
};
void embed(Stream& stream, const Embed& a, int64_t T_);

// cos, sin of position * inv_freq, rounded to bf16 on demand
struct RopeTable {
  const Token* tokens;
  const float* inv_freq;    // (D / 2)
  int half;                 // D / 2
  bool round_to_bf16;
  float* cos;               // (T, D / 2)
  float* sin;
};
void rope_table(Stream& stream, const RopeTable& a, int64_t T_);

// x = resid * x + mixed_lambda * mixed, where there is something to mix;  n = norm(x)
template <class T> struct MixNorm {
  float* x;                 // (., C)
  const float* mixed;       // (., C); null: x stays
  float resid, mixed_lambda;
  const int32_t* picked;    // (rows) of x; null: all, and the mixed x is stored
  int C;
  float eps;
  T* n;                     // (rows, n_stride)
  int64_t n_stride;
};
template <class T> void mix_norm(Stream& stream, const MixNorm<T>& a, int64_t rows);

enum class Epilogue {
  store,    // y = v                                 float
  add,      // y = y + v                             float
  relu2,    // y = relu(v)^2                         T
  softcap,  // y = cap * tanh(v / cap)               float
};

// y = epilogue(x w^T)
template <class T> struct Matmul {
  const T* x;               // (rows, stride), zeros beyond k
  const T* w;               // (outputs, stride), zeros beyond k
  int64_t stride;           // k padded to kRowUnit
  void* y;                  // (rows, outputs)
  int64_t y_stride;
  int rows, outputs;
  Epilogue epilogue;
  float cap;
};
template <class T> void gemv(Stream& stream, const Matmul<T>& a);       // 1..kGemvRows rows
void gemm(Stream& stream, const Matmul<bf16>& a);                       // tensor cores
void gemm_float(Stream& stream, const Matmul<float>& a);
constexpr int kGemvRows = 4;
// The one of these that suits the number of rows.
template <class T> void matmul(Stream& stream, const Matmul<T>& a);

// q = s * norm(rope(q)), k likewise, v += m * sigmoid(ve_gate . n) * value_embeds[id]; k and v to the cache
template <class T> struct AppendKv {
  const Token* tokens;      // (T)
  const Row* rows;
  const float* qkv;         // (T, (H + 2 K) D)
  const float* cos;         // (T, D / 2)
  const float* sin;
  int H, K, D, Dp, layer;
  float eps, scale;
  T* q;                     // (T, H, Dp)
  const void* value_embeds; // (V, K D); null: none in this layer
  bool value_embeds_is_bf16;
  const float* ve_gate;     // (K, g)
  int g;
  float m;
  const T* n;               // (T, n_stride)
  int64_t n_stride;
};
template <class T> void append_kv(Stream& stream, const AppendKv<T>& a, int64_t T_);

// y = softmax(q k / sqrt(D)) v over the keys that the window shows
template <class T> struct Attention {
  const Token* tokens;      // (T), or of a slab
  const Row* rows;
  const T* q;               // (T, H, Dp)
  int H, K, D, Dp, layer, window;
  float scale;
  float* partial;           // (T, H, kMaxSplits, Dp): what a split makes of its keys
  float* weights;           // (T, H, kMaxSplits, 2): largest score and sum of a split
  T* y;                     // (T, y_stride), head by head D wide
  int64_t y_stride;
};
// One query per block and split; `splits` is the most that a token has.
template <class T> void attention_decode(Stream& stream, const Attention<T>& a, int64_t T_, int splits);

// Consecutive tokens of one row that share key tiles.
struct QueryTile {
  int32_t row, first_token, count, position;  // position of the first
};
constexpr int kTileQueries = 64, kHopperTileQueries = 128;
// The most queries of a tile that suits a pass over T tokens.
int tile_queries(const Stream& stream, int H, int D, int64_t T_);
struct AttentionPrefill {
  Attention<bf16> a;        // without partial and weights
  const QueryTile* tiles;   // best those with most keys first
  int tile_queries;         // that none is longer than: kTileQueries, or kHopperTileQueries with maps
  const TensorMap* maps;    // of prefill_maps, null where prefill_takes_maps is false
};
bool prefill_takes_maps(const Stream& stream, int D);
void attention_prefill(Stream& stream, const AttentionPrefill& p, int64_t tiles);
void attention_prefill_sm90(Stream& stream, const AttentionPrefill& p, int64_t tiles);
// A map of q (T, H, 128), then of every row's slot (heads, capacity, 128) without what lies beyond the row's end.
void prefill_maps(Stream& stream, const bf16* q, int64_t T_, int H, int64_t heads, const std::vector<Row>& rows, const std::vector<int64_t>& ends, TensorMap* maps);

// How one row draws, MODEL.md 5, and how far it got.
struct Draw {
  float temperature;        // 0: argmax
  int32_t top_k;            // 0: all
  uint32_t seed_low, seed_high;
  int32_t stream;           // the row's number in its call
  int32_t steps_left;       // 0: the row draws nothing any more
  int32_t taken;            // tokens drawn so far
};

// Draws a token for each row that has steps left and makes it the row's next input.
struct Sample {
  const float* logits;      // (B, V)
  int V, B;
  Draw* draws;              // (B)
  Token* tokens;            // (B): what the logits came from
  const int32_t* pause_ids; // their number, then the ids: after one of these a row stops
  int32_t* drawn;           // (steps, B)
};
void sample(Stream& stream, const Sample& a);

}  // namespace cuda
}  // namespace nanochat
