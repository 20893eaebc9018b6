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

// x_out = resid * x + mixed_lambda * mixed, where there is something to mix, else x;  n = norm(x_out)
template <class T> struct MixNorm {
  const float* x;           // (., C)
  const float* mixed;       // (., C); null: x alone
  float resid, mixed_lambda;
  float* x_out;             // (., C), not x; null: only n is wanted
  const int32_t* picked;    // (rows) of x; null: all
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
  float* partial;           // (kPartialOutputs * processors) of blocks that share outputs
  uint32_t* arrived;        // (processors) how many of them are done, zero between launches
};
template <class T> void gemv(Stream& stream, const Matmul<T>& a);                             // as gemv_fits
template <class T> void gemv_of_norm(Stream& stream, const Matmul<T>& a, const MixNorm<T>& norm);  // x = n of norm; n is written too
void skinny(Stream& stream, const Matmul<bf16>& a);                     // up to kSkinnyRows rows, tensor cores
void gemm(Stream& stream, const Matmul<bf16>& a);                       // tensor cores: one of the next two
void gemm_portable(Stream& stream, const Matmul<bf16>& a);
bool gemm_sm90(Stream& stream, const Matmul<bf16>& a, int tile);        // of kHopperTiles; false: y is not aligned, nothing was done
void gemm_float(Stream& stream, const Matmul<float>& a);
// The one of these that suits the number of rows.
template <class T> void matmul(Stream& stream, const Matmul<T>& a);
// y = epilogue(n w^T), with a.x = norm.n
template <class T> void matmul_of_norm(Stream& stream, const Matmul<T>& a, const MixNorm<T>& norm);

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
  uint32_t* arrived;        // (T, H): blocks that are done, zero between launches
  T* y;                     // (T, y_stride), head by head D wide
  int64_t y_stride;
};
// Single queries; `splits` is the most that a token has.
template <class T> void attention_decode(Stream& stream, const Attention<T>& a, int64_t T_, int splits);
// append_kv and attention_decode in one, for tokens of as many rows.
template <class T> void attention_append(Stream& stream, const Attention<T>& a, const AppendKv<T>& append, int64_t T_, int splits);

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

// What differs from layer to layer in a step that is one kernel.
template <class T> struct StepLayer {
  const T* weights[4];      // c_qkv, c_proj, c_fc, mlp.c_proj
  float resid_lambda, x0_lambda;
  const float* x;           // (C); of the first layer: not read, x is the embedding
  float* mixed;             // (C): resid_lambda x + x0_lambda x0, to which the layer adds
  const void* value_embeds; // (V, K D); null: none
  bool value_embeds_is_bf16;
  const float* ve_gate;     // (K, g)
  int window;
};

// embed to lm_head for one token of one row, in a launch of one block per processor.
template <class T> struct DecodeStep {
  Embed embed;              // without x
  RopeTable rope;           // without cos and sin
  AppendKv<T> append;       // without cos and sin, and what StepLayer has; its tokens and rows count for all
  Attention<T> attention;   // without tokens, rows and window
  MixNorm<T> norm;          // of a layer: mixed is x0; without x, the lambdas and x_out
  MixNorm<T> last_norm;     // that lm_head is of
  const StepLayer<T>* layers;
  int layer_count;
  T* hidden;                // (hidden_stride)
  int mlp_hidden;
  int64_t hidden_stride;
  const T* lm_head;         // (V, n_stride)
  int V;
  float cap;
  float* logits;            // (V)
  uint32_t* arrived;        // of sync_grid
};
// False where the device has too little shared memory, or the model is too wide: nothing was done.
template <class T> bool decode_step(Stream& stream, const DecodeStep<T>& p);

// How one row draws, MODEL.md 5, and how far it got.
struct Draw {
  float temperature;        // 0: argmax
  int32_t top_k;            // 0: all
  uint32_t seed_low, seed_high;
  int32_t stream;           // the row's number in its call
  int32_t steps_left;       // 0: the row draws nothing any more
  int32_t taken;            // tokens drawn so far
  double top_p = 1;         // 1: all
  double min_p = 0;         // 0: all
};

// What a row's options keep: the buckets above `bucket`, in it the keys from `least` on, of these the values from `floor` on.
struct Kept {
  bool all;
  float max;
  int32_t bucket;
  uint64_t least;
  double floor;
};

struct Candidate {
  float value;
  int32_t id;               // -1: none
};

// Draws a token for each row that has steps left and makes it the row's next input.
struct Sample {
  const float* logits;      // (B, V)
  int V, B;
  Draw* draws;              // (B)
  Token* tokens;            // (B): what the logits came from
  const int32_t* pause_ids; // their number, then the ids: after one of these a row stops
  int32_t* drawn;           // (steps, B)
  bool has_cuts;            // some row has top_k, top_p or min_p
  Kept* kept;               // (B)
  Candidate* candidates;    // (B, sample_parts(V))
  uint32_t* arrived;        // (B): blocks that are done, zero between launches
};
void sample(Stream& stream, const Sample& a);

}  // namespace cuda
}  // namespace nanochat
