// A decoding step of one row in one kernel: embed .. lm_head                                     MODEL.md 1
// token, slot, weights -> logits (V); the slot has the token's keys and values
// A block per processor, and a barrier of the whole grid where one part needs what all blocks made in the part before it. A
// block owns consecutive outputs of every matrix, each warp the same share of their weights, whatever row these belong to.
// Which weights a lane will want depends on nothing: they pass through a ring in shared memory that it begins to fill at the
// start and goes on to fill across parts and barriers, in places of its own.
// Bound by reading weights; at small models by barriers, five per layer. Not timed yet.
#include "cuda/attention_keys.h"
#include "cuda/embed.h"
#include "cuda/epilogue.h"
#include "cuda/mixed.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kWarps = kStepWarps, kThreads = kWarps * kWarp;
constexpr int kPieceParts = 2, kPieces = 7;  // of weights: 16 bytes each of a lane, in the ring
constexpr int kKeyPieces = 4;                // in the ring of keys
constexpr int kMatrices = 4;                 // of a layer, in the order of StepLayer; lm_head comes after all of them
enum : int { kQkv, kProj, kFc, kMlpProj, kHead };

template <class T, int Dp> using Run = KeyRun<T, Dp, kWarps, 1, kKeyPieces, true>;

template <class T, int Dp> struct alignas(16) Shared {
  Chunk<T> ring[kPieces][kPieceParts][kThreads];
  typename Run<T, Dp>::Shared keys;
  float scratch[kWarps], cos[Dp / 2], sin[Dp / 2];
  StepShare shares[kMatrices + 1];
  Token token;
  Row row;
  Attention<T> attention;  // of the layer at work
  AppendKv<T> append;
  // behind it: x (x_bytes), layers, units (layers), sums (largest count + kWarps) float
};

// How a layer's splits are shared out: runs of `run` splits, `runs` of a head, each a unit of work for a block.
struct Units {
  Splits splits;
  int run, runs, count;
};

template <class T> struct Step {
  DecodeStep<T> of;
  int64_t x_bytes;
};

// Where things are in shared memory.
template <class T, int Dp> struct OnChip {
  Shared<T, Dp>* shared;
  T* x;                        // of a product; and what attention finds of a run
  const StepLayer<T>* layers;
  const Units* units;          // of each layer
  float* sums;
};

// Where a block is in the sequence of all its weights.
template <class T, int Dp> struct WeightStream {
  const OnChip<T, Dp>& at;
  int matrix, step, slot;
  StepShare share;
  const Chunk<T>* weights;

  NC_DEVICE WeightStream(const OnChip<T, Dp>& chip, const DecodeStep<T>& p) : at(chip), matrix(0), step(0), slot(0), share{}, weights(nullptr) { find(p); }

  // The matrix from which the next weights come: one that the block has a part of.
  NC_DEVICE void find(const DecodeStep<T>& p) {
    NC_NO_UNROLL
    for (; matrix <= kMatrices * p.layer_count; matrix++) {
      const int kind = matrix == kMatrices * p.layer_count ? kHead : matrix % kMatrices;
      share = at.shared->shares[kind];
      if (share.steps == 0) continue;
      const T* w = kind == kHead ? p.lm_head : at.layers[matrix / kMatrices].weights[kind];
      weights = reinterpret_cast<const Chunk<T>*>(w + share.first * (kind == kMlpProj ? p.hidden_stride : p.norm.n_stride));
      return;
    }
  }

  // Begins to copy the next piece; what it is copied over was read before.
  NC_DEVICE void ask(const DecodeStep<T>& p) {
    if (matrix <= kMatrices * p.layer_count) {
      NC_UNROLL
      for (int i = 0; i < kPieceParts; i++) {
        const int part = (warp() * share.steps + step + i) * kWarp + lane();
        const bool is_there = step + i < share.steps && part < share.parts;
        copy_async(&at.shared->ring[slot][i][thread()], weights + (is_there ? part : 0), is_there);
      }
      if (++slot == kPieces) slot = 0;
      step += kPieceParts;
      if (step >= share.steps) {
        step = 0;
        matrix++;
        find(p);
      }
    }
    commit_copies();
  }
};

// sums[output + warp] of what each warp has of an output: a warp's outputs and an output's warps are consecutive, so no two
// share a place. `slot`: of the ring, where the matrix's weights begin.
template <class T, int Dp> NC_DEVICE void multiply(const OnChip<T, Dp>& at, const StepShare& share, int chunks, int* slot, WeightStream<T, Dp>& weights, const DecodeStep<T>& p) {
  const int begin = warp() * share.steps * kWarp, end = begin + share.steps * kWarp < share.parts ? begin + share.steps * kWarp : share.parts;
  int output = (begin + lane()) / chunks, from = (begin + lane()) % chunks;  // of this lane's part
  int current = begin / chunks;                                             // the output that `sum` is of
  float sum = 0;
  for (int step = 0; step < share.steps; step += kPieceParts) {
    wait_copies<kPieces - 1>();
    float dot[kPieceParts];
    int of[kPieceParts];
    NC_UNROLL
    for (int i = 0; i < kPieceParts; i++) {
      const Chunk<T> part = at.shared->ring[*slot][i][thread()], values = reinterpret_cast<const Chunk<T>*>(at.x)[from];
      dot[i] = 0;
      NC_UNROLL
      for (int e = 0; e < Chunk<T>::kCount; e++) dot[i] += widen(values.at[e]) * widen(part.at[e]);
      of[i] = output;
      for (from += kWarp; from >= chunks; from -= chunks) output++;
    }
    weights.ask(p);
    if (++*slot == kPieces) *slot = 0;
    NC_UNROLL
    for (int i = 0; i < kPieceParts; i++) {
      const int next = begin + (step + i + 1) * kWarp, passed = next < end ? next : end;
      sum += of[i] == current ? dot[i] : 0;
      while ((current + 1) * chunks <= passed) {
        const float total = warp_sum(sum);
        if (lane() == 0) at.sums[current + warp()] = total;
        current++;
        sum = of[i] == current ? dot[i] : 0;
      }
    }
  }
  if (current * chunks >= end) return;
  const float total = warp_sum(sum);
  if (lane() == 0) at.sums[current + warp()] = total;
}

// y = epilogue of the block's outputs, each the sum of what its warps found.
template <class T> NC_DEVICE void finish_outputs(const Matmul<T>& y, const StepShare& share, int chunks, float before, const float* sums) {
  NC_NO_UNROLL
  for (int i = thread(); i < share.count; i += kThreads) {
    const int per_warp = share.steps * kWarp, first = i * chunks / per_warp, last = ((i + 1) * chunks - 1) / per_warp;
    float v = 0;
    NC_NO_UNROLL
    for (int w = first; w <= last; w++) v += sums[i + w];
    if (y.epilogue == Epilogue::add && i == thread()) static_cast<float*>(y.y)[share.first + i] = before + v;
    else finish(y, 0, share.first + i, v);
  }
}

// What a run of splits found, (units, Dp) and (units, 2). The block's first keys were asked for `newest` groups of copies ago.
template <class T, int Dp> NC_DEVICE void attend(const OnChip<T, Dp>& at, int newest) {
  const Attention<T>& a = at.shared->attention;
  float* out = reinterpret_cast<float*>(at.x);
  auto* shared = &at.shared->keys;
  const Units units = at.units[a.layer];
  for (int unit = block_x(); unit < units.count; unit += blocks_x()) {
    Run<T, Dp> keys(a, at.shared->token, units.splits, 0, unit / units.runs, unit % units.runs, units.run);
    const bool is_first = unit == block_x();
    if (!is_first) sync_block();
    NC_NO_UNROLL
    for (int i = 0; i < kKeyPieces; i++) {
      if (is_first) {
        keys.skip();
      } else {
        keys.ask(shared);
        commit_copies();
      }
    }
    keys.take_new_token(at.shared->append, shared);
    keys.attend(shared->q, a.scale, shared, out, [&](int piece) {
      if (is_first && piece < kKeyPieces) wait_older_copies<kPieces>(newest + piece);
      else wait_copies<kKeyPieces - 1>();
    });
    sync_block();
    keys.store_run(shared, out, a.partial + unit * Dp, a.weights + unit * 2);
  }
}

// x = y of all heads, by every block for itself: each run's part comes to where the keys were. note: a merge by the last block
// to arrive would take three more ways to the L2 cache.
template <class T, int Dp> NC_DEVICE void take_attention(const OnChip<T, Dp>& at) {
  const Attention<T>& a = at.shared->attention;
  const Units units = at.units[a.layer];
  float* partial = reinterpret_cast<float*>(&at.shared->keys);
  float *weights = partial + units.count * Dp, *factors = weights + pad_to(units.count * 2, 4);
  NC_NO_UNROLL
  for (int i = 4 * thread(); i < units.count * Dp; i += 4 * kThreads) copy_async(partial + i, a.partial + i, true);
  NC_NO_UNROLL
  for (int i = 4 * thread(); i < units.count * 2; i += 4 * kThreads) copy_async(weights + i, a.weights + i, true);
  commit_copies();
  wait_copies<0>();
  sync_block();
  NC_NO_UNROLL
  for (int unit = thread(); unit < units.count; unit += kThreads) {
    const float* of_head = weights + unit / units.runs * units.runs * 2;
    float largest = of_head[0], sum = 0;
    for (int i = 1; i < units.runs; i++) largest = fmaxf(largest, of_head[2 * i]);
    for (int i = 0; i < units.runs; i++) sum += of_head[2 * i + 1] * expf(of_head[2 * i] - largest);
    factors[unit] = expf(weights[2 * unit] - largest) / sum;
  }
  sync_block();
  NC_NO_UNROLL
  for (int c = thread(); c < a.y_stride; c += kThreads) {
    const int first = c / a.D * units.runs, d = c % a.D;
    float y = 0;
    for (int unit = first; c < a.H * a.D && unit < first + units.runs; unit++) y += partial[unit * Dp + d] * factors[unit];
    at.x[c] = narrow<T>(y);
  }
}

// Asks for the block's first keys, and for its value embedding.
template <class T, int Dp> NC_DEVICE void ask_for_keys(const OnChip<T, Dp>& at) {
  const Attention<T>& a = at.shared->attention;
  const AppendKv<T>& append = at.shared->append;
  const Units units = at.units[a.layer];
  const int unit = block_x();
  if (unit < units.count) {
    Run<T, Dp> keys(a, at.shared->token, units.splits, 0, unit / units.runs, unit % units.runs, units.run);
    NC_NO_UNROLL
    for (int i = 0; i < kKeyPieces; i++) keys.ask(&at.shared->keys);
    const int64_t bytes = a.D * (append.value_embeds_is_bf16 ? 2 : 4), offset = thread() * 32;
    if (append.value_embeds && keys.has_last() && offset < bytes) {
      prefetch(static_cast<const unsigned char*>(append.value_embeds) + (static_cast<int64_t>(keys.token.id) * a.K + keys.kv_head) * bytes + offset);
    }
  }
  commit_copies();
}

template <class T, int Dp> NC_DEVICE void take_step(const Step<T>& step) {
  const DecodeStep<T>& p = step.of;
  auto* shared = static_cast<Shared<T, Dp>*>(shared_memory());
  T* x = reinterpret_cast<T*>(shared + 1);
  auto* layers = reinterpret_cast<StepLayer<T>*>(reinterpret_cast<unsigned char*>(x) + step.x_bytes);
  auto* units = reinterpret_cast<Units*>(layers + p.layer_count);
  const OnChip<T, Dp> at = {shared, x, layers, units, reinterpret_cast<float*>(units + p.layer_count)};
  const int C = p.norm.C, chunks = static_cast<int>(p.norm.n_stride) / Chunk<T>::kCount, hidden_chunks = static_cast<int>(p.hidden_stride) / Chunk<T>::kCount;
  uint32_t turn = grid_turn(p.arrived);

  // note: by different warps, because the divisions take a while
  NC_NO_UNROLL
  for (int l = thread(); l < p.layer_count; l += kThreads) {
    layers[l] = p.layers[l];
    const Splits splits = splits_of(p.append.tokens[0].position, layers[l].window);
    const int run = step_run(splits.count, p.append.H, blocks_x()), runs = static_cast<int>(divide_up(splits.count, run));
    units[l] = {splits, run, runs, runs * p.append.H};
  }
  if (warp() == kWarps - 2 && lane() <= kHead) {
    const int kind = lane(), outputs = kind == kQkv ? (p.append.H + 2 * p.append.K) * p.append.D : kind == kFc ? p.mlp_hidden : kind == kHead ? p.V : C;
    shared->shares[kind] = step_share(outputs, kind == kMlpProj ? hidden_chunks : chunks, block_x(), blocks_x());
  }
  if (thread() == kThreads - 1) {
    shared->token = p.append.tokens[0];
    shared->row = p.append.rows[shared->token.row];
    shared->token.row = 0;
    shared->attention = p.attention;
    shared->attention.rows = &shared->row;
    shared->append = p.append;
    shared->append.rows = &shared->row;
    shared->append.cos = shared->cos;
    shared->append.sin = shared->sin;
  }
  sync_block();
  WeightStream<T, Dp> weights(at, p);
  NC_NO_UNROLL
  for (int i = 0; i < kPieces; i++) weights.ask(p);

  // x is kept where the first keys will be
  float* embedding = reinterpret_cast<float*>(shared->keys.ring);
  const Embedding embedded(p.embed, shared->token, shared->scratch);
  NC_NO_UNROLL
  for (int c = thread(); c < C; c += kThreads) {
    const float v = embedded.at(c);
    embedding[c] = v;
    if (block_x() == 0) p.embed.x0[c] = v;
  }
  NC_NO_UNROLL
  for (int i = thread(); i < p.rope.half; i += kThreads) {
    const Rotation r = rotation(p.rope, static_cast<float>(shared->token.position), i);
    shared->cos[i] = r.cos;
    shared->sin[i] = r.sin;
  }

  int slot = 0;
  for (int m = 0; m <= kMatrices * p.layer_count; m++) {
    const int kind = m == kMatrices * p.layer_count ? kHead : m % kMatrices, l = kind == kHead ? 0 : m / kMatrices;
    const StepLayer<T>& layer = layers[l];
    if (kind == kQkv && thread() == 0) {
      shared->attention.layer = shared->append.layer = l;
      shared->append.value_embeds = layer.value_embeds;
      shared->append.value_embeds_is_bf16 = layer.value_embeds_is_bf16;
      shared->append.ve_gate = layer.ve_gate;
    }
    if (kind == kProj) {
      attend(at, static_cast<int>(divide_up(shared->shares[kQkv].steps, kPieceParts)));
      sync_grid(p.arrived, &turn);
      take_attention(at);
    } else if (kind == kMlpProj) {
      for (int i = thread(); i < hidden_chunks; i += kThreads) reinterpret_cast<Chunk<T>*>(x)[i] = reinterpret_cast<const Chunk<T>*>(p.hidden)[i];
    } else {
      MixNorm<T> norm = kind == kHead ? p.last_norm : p.norm;
      if (kind == kQkv) {
        norm.x = l == 0 ? embedding : layer.x;
        if (l == 0 && norm.mixed) norm.mixed = embedding;
        norm.resid = layer.resid_lambda;
        norm.mixed_lambda = layer.x0_lambda;
        norm.x_out = layer.mixed;
      } else if (kind == kFc) {
        norm.x = layer.mixed;
        norm.mixed = nullptr;
      }
      take_norm<T, 1, kThreads>(norm, norm.n_stride, x, shared->scratch);
    }
    if (kind == kQkv) ask_for_keys(at);
    const StepShare share = shared->shares[kind];
    Matmul<T> y = {};
    y.epilogue = kind == kQkv ? Epilogue::store : kind == kFc ? Epilogue::relu2 : kind == kHead ? Epilogue::softcap : Epilogue::add;
    y.y = kind == kQkv ? const_cast<float*>(p.append.qkv) : kind == kFc ? static_cast<void*>(p.hidden) : kind == kHead ? p.logits : layer.mixed;
    y.cap = p.cap;
    const float before = y.epilogue == Epilogue::add && thread() < share.count ? layer.mixed[share.first + thread()] : 0;
    sync_block();
    const int row_chunks = kind == kMlpProj ? hidden_chunks : chunks;
    multiply(at, share, row_chunks, &slot, weights, p);
    sync_block();
    finish_outputs(y, share, row_chunks, before, at.sums);
    if (kind != kHead) sync_grid(p.arrived, &turn);
  }
  wait_copies<0>();
}

template <class T, int Dp> NC_KERNEL(kThreads) decode_step_kernel(Step<T> step) {
  if constexpr (has_step_kernel(kCompiledFor)) take_step<T, Dp>(step);
}

template <class T, int Dp> bool launch_step(Stream& stream, const DecodeStep<T>& p) {
  const int blocks = stream.processors(), outputs[] = {(p.append.H + 2 * p.append.K) * p.append.D, p.norm.C, p.mlp_hidden, p.V};
  const auto larger = [](int64_t a, int64_t b) { return a > b ? a : b; };
  int64_t most = 0;
  for (int count : outputs) most = larger(most, divide_up(count, blocks));
  const int64_t x_bytes = larger(larger(p.norm.n_stride, p.hidden_stride) * static_cast<int64_t>(sizeof(T)), int64_t{step_run(kMaxSplits, p.attention.H, blocks)} * Dp * 4);
  const int64_t shared_bytes = static_cast<int64_t>(sizeof(Shared<T, Dp>)) + x_bytes + p.layer_count * static_cast<int64_t>(sizeof(StepLayer<T>) + sizeof(Units)) + (most + kWarps) * 4;
  if (!has_step_kernel(stream.compiled_for(reinterpret_cast<const void*>(decode_step_kernel<T, Dp>)))) return false;
  const int64_t parts_bytes = larger(p.attention.H, blocks) * (Dp + 3) * 4;  // that take_attention lays where the keys were
  if (shared_bytes > stream.shared_bytes() || p.norm.n_stride > kNormElements * kThreads || parts_bytes + 16 > static_cast<int64_t>(sizeof(typename Run<T, Dp>::Shared))) return false;
  launch_cooperative(stream, "decode_step", decode_step_kernel<T, Dp>, kThreads, static_cast<size_t>(shared_bytes), Step<T>{p, x_bytes});
  return true;
}

}  // namespace

template <class T> bool decode_step(Stream& stream, const DecodeStep<T>& p) {
  switch (p.attention.Dp) {
    case 32: return launch_step<T, 32>(stream, p);
    case 64: return launch_step<T, 64>(stream, p);
    case 128: return launch_step<T, 128>(stream, p);
  }
  return false;
}

template bool decode_step<float>(Stream&, const DecodeStep<float>&);
template bool decode_step<bf16>(Stream&, const DecodeStep<bf16>&);

}  // namespace cuda
}  // namespace nanochat
