// embed, rope_table, mix_norm
#include "cuda/reference.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

std::vector<Token> tokens(int count, int V, int start) {
  std::vector<Token> out;
  for (int t = 0; t < count; t++) {
    const int id = static_cast<int>(random_bits() % static_cast<unsigned>(V));
    out.push_back({id, out.empty() ? -1 : out.back().id, start + t, 0});
  }
  return out;
}

template <class W> void check_embed(int C, int T_, bool smear) {
  const int V = 11;
  Array<Token> ids(tokens(T_, V, 0));
  Array<W> wte(noise<W>(static_cast<size_t>(V) * C));
  Array<float> gate(noise<float>(24)), x(static_cast<size_t>(T_) * C), x0(static_cast<size_t>(T_) * C);
  const auto args = [&](Side s) { return Embed{ids.at(s), wte.at(s), sizeof(W) == 2, C, 0x1p-23f, smear ? gate.at(s) : nullptr, 0.5f, x.at(s), x0.at(s)}; };
  embed(*stream, args(Side::device), T_);
  reference::embed(args(Side::host), T_);
  const std::string what = std::string("embed ") + type_name<W>() + " C " + std::to_string(C) + (smear ? " smeared" : "");
  expect_near(x.read(), x.expected(), 1e-6, what);
  expect_near(x0.read(), x0.expected(), 1e-6, what + ", x0");
}

void check_rope_table(bool round_to_bf16) {
  Array<Token> ids(tokens(40, 5, 0));
  for (size_t t = 0; t < ids.size(); t++) ids[t].position = static_cast<int>(t < 20 ? t : random_bits() % 20480);
  Array<float> inv_freq(std::vector<float>{1, 0.5f, 0.1f, 1e-3f, 1e-5f}), cos(200), sin(200);
  const auto args = [&](Side s) { return RopeTable{ids.at(s), inv_freq.at(s), 5, round_to_bf16, cos.at(s), sin.at(s)}; };
  rope_table(*stream, args(Side::device), 40);
  reference::rope_table(args(Side::host), 40);
  expect_near(cos.read(), cos.expected(), 1e-7, "rope cos");
  expect_near(sin.read(), sin.expected(), 1e-7, "rope sin");
}

template <class T> void check_mix_norm(int C, int rows, bool mixes, bool picks) {
  const int64_t stride = pad_to(C, kRowUnit);
  Array<float> x(noise<float>(static_cast<size_t>(rows) * C)), x0(noise<float>(static_cast<size_t>(rows) * C)), x_out(static_cast<size_t>(rows) * C);
  if (C == 1) {  // note: the norm of one element magnifies the rounding of a sum that nearly cancels; sums of short numbers are not rounded
    for (Array<float>* values : {&x, &x0}) for (float& v : values->host()) v = to_float(to_bf16(v));
  }
  Array<int32_t> picked(std::vector<int32_t>{rows - 1, 0, rows / 2});
  const int64_t outputs = picks ? 3 : rows;
  Array<T> n(std::vector<T>(static_cast<size_t>(outputs * stride), from_float<T>(0)));
  const auto args = [&](Side s) { return MixNorm<T>{x.at(s), mixes ? x0.at(s) : nullptr, 0.75f, -0.25f, picks ? nullptr : x_out.at(s), picks ? picked.at(s) : nullptr, C, 1e-6f, n.at(s), stride}; };
  mix_norm(*stream, args(Side::device), outputs);
  reference::mix_norm(args(Side::host), outputs);
  const std::string what = std::string("mix_norm ") + type_name<T>() + " C " + std::to_string(C) + (mixes ? " mixed" : "") + (picks ? " picked" : "");
  expect_near(n.read(), n.expected(), sizeof(T) == 4 ? 1e-6 : 3e-3, what);
  if (!picks) expect_near(x_out.read(), x_out.expected(), 1e-6, what + ", x");
}

}  // namespace

void test_rows() {
  for (bool smear : {false, true}) {
    for (int C : {24, 65, 128, 770}) {
      check_embed<float>(C, 5, smear);
      check_embed<bf16>(C, 5, smear);
    }
  }
  check_rope_table(false);
  check_rope_table(true);
  for (int C : {1, 63, 64, 257, 768}) {
    for (int flags = 0; flags < 4; flags++) {
      check_mix_norm<float>(C, 5, flags & 1, flags & 2);
      check_mix_norm<bf16>(C, 5, flags & 1, flags & 2);
    }
  }
}

}  // namespace cuda
}  // namespace nanochat
