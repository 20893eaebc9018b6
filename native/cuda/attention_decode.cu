// y = softmax(q k / sqrt(D)) v for single queries, keys first..position                        MODEL.md 1: attention
// q (T, H, Dp), slots -> y (T, H D); or qkv (T, (H + 2 K) D), whose k and v it appends to the slots first
// Keys are split by their number alone; a block takes a run of a token and head's splits, as attention_keys.h says.
// Bound by reading keys and values.
#include "cuda/attention_keys.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kAtOnce = 4, kPieces = 2;

template <class T> struct Decode {
  Attention<T> a;
  AppendKv<T> append;
  int run;  // splits of a block
};

template <class T, int Dp, bool kAppends> using Run = KeyRun<T, Dp, kThreads / kWarp, kAtOnce, kPieces, kAppends>;

template <class T, int Dp, bool kAppends> NC_KERNEL(kThreads) attention_decode_kernel(Decode<T> p) {
  using Of = Run<T, Dp, kAppends>;
  start_next();
  const Attention<T>& a = p.a;
  const Token token = a.tokens[block_z()];
  Of run(a, token, splits_of(token.position, a.window), block_z(), block_y(), block_x(), p.run);
  auto* shared = static_cast<typename Of::Shared*>(shared_memory());
  float* out = reinterpret_cast<float*>(shared + 1);  // (run, Dp)
  if (!kAppends) wait_for_previous();
  for (int i = 0; i < kPieces; i++) {
    run.ask(shared);
    commit_copies();
  }
  if (kAppends) wait_for_previous();
  if (run.first_split >= run.splits) return;
  if (kAppends) run.take_new_token(p.append, shared);
  run.attend(kAppends ? shared->q : a.q + (run.t * a.H + run.head) * Dp, a.scale, shared, out, [](int) { wait_copies<kPieces - 1>(); });
  wait_copies<0>();
  run.merge_runs(a, shared, out);
}

template <class T, int Dp, bool kAppends> void launch_decode(Stream& stream, const Attention<T>& a, const AppendKv<T>& append, int64_t T_, int splits) {
  // several blocks per place on the device, so that short ones fill in; then as long runs as that allows
  const int64_t run = T_ * a.H * splits / (int64_t{8} * stream.processors());
  const Decode<T> p{a, append, static_cast<int>(run < 1 ? 1 : run > splits ? splits : run)};
  launch_overlapping(stream, "attention_decode", attention_decode_kernel<T, Dp, kAppends>, {divide_up(splits, p.run), a.H, T_}, kThreads, sizeof(typename Run<T, Dp, kAppends>::Shared) + static_cast<size_t>(p.run) * Dp * sizeof(float), p);
}

template <class T, bool kAppends> void launch_padded(Stream& stream, const Attention<T>& a, const AppendKv<T>& append, int64_t T_, int splits) {
  switch (a.Dp) {
    case 32: return launch_decode<T, 32, kAppends>(stream, a, append, T_, splits);
    case 64: return launch_decode<T, 64, kAppends>(stream, a, append, T_, splits);
    case 128: return launch_decode<T, 128, kAppends>(stream, a, append, T_, splits);
  }
}

}  // namespace

template <class T> void attention_decode(Stream& stream, const Attention<T>& a, int64_t T_, int splits) { launch_padded<T, false>(stream, a, {}, T_, splits); }

template <class T> void attention_append(Stream& stream, const Attention<T>& a, const AppendKv<T>& append, int64_t T_, int splits) {
  launch_padded<T, true>(stream, a, append, T_, splits);
}

template void attention_decode<float>(Stream&, const Attention<float>&, int64_t, int);
template void attention_decode<bf16>(Stream&, const Attention<bf16>&, int64_t, int);
template void attention_append<float>(Stream&, const Attention<float>&, const AppendKv<float>&, int64_t, int);
template void attention_append<bf16>(Stream&, const Attention<bf16>&, const AppendKv<bf16>&, int64_t, int);

}  // namespace cuda
}  // namespace nanochat
