// append_kv: q, and the right cells of the right slot and no other.
#include "cuda/reference.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

template <class T> bool same_bits(const std::vector<T>& a, const std::vector<T>& b, size_t i) { return std::memcmp(&a[i], &b[i], sizeof(T)) == 0; }

template <class T, class E> void check_append(int D, int H, int K, bool embeds) {
  const int Dp = padded_head_dim(D), layers = 3, layer = 1, V = 9, T_ = 7, g = 12;
  const int64_t capacity = 21, C = 40, n_stride = 64;
  const size_t slot_size = static_cast<size_t>(layers * 2 * K * capacity * Dp);
  Array<T> slots[2] = {Array<T>(slot_size), Array<T>(slot_size)}, untouched(slot_size);
  Array<Row> host_rows(2), device_rows(2);
  for (size_t r = 0; r < 2; r++) {
    host_rows[r] = {slots[r].at(Side::host), capacity};
    device_rows[r] = {slots[r].at(Side::device), capacity};
  }
  std::vector<Token> list;
  for (int t = 0; t < T_; t++) list.push_back({static_cast<int>(random_bits() % V), -1, t < 5 ? 16 + t : t, t < 5 ? 0 : 1});
  Array<Token> tokens(list);
  Array<float> qkv(noise<float>(static_cast<size_t>(T_ * (H + 2 * K) * D))), cos(noise<float>(static_cast<size_t>(T_ * D / 2))), sin(noise<float>(static_cast<size_t>(T_ * D / 2)));
  Array<float> gate(noise<float>(static_cast<size_t>(K * g)));
  Array<E> embeddings(noise<E>(static_cast<size_t>(V * K * D)));
  Array<T> n(padded_noise<T>(T_, C, n_stride)), q(static_cast<size_t>(T_ * H * Dp));
  const auto args = [&](Side s) {
    return AppendKv<T>{tokens.at(s), s == Side::host ? host_rows.at(s) : device_rows.at(s), qkv.at(s), cos.at(s), sin.at(s), H, K, D, Dp, layer, 0x1p-23f, 1.2f, q.at(s),
                       embeds ? embeddings.at(s) : nullptr, sizeof(E) == 2, gate.at(s), g, 3, n.at(s), n_stride};
  };
  append_kv(*stream, args(Side::device), T_);
  reference::append_kv(args(Side::host), T_);
  const std::string what = std::string("append_kv ") + type_name<T>() + " D " + std::to_string(D) + " H " + std::to_string(H) + " K " + std::to_string(K);
  const double tolerance = sizeof(T) == 2 ? 3e-3 : 1e-6;
  expect_near(q.read(), q.expected(), tolerance, what + ", q");
  for (auto& slot : slots) {
    const std::vector<T> got = slot.read_raw(), &expected = slot.host(), &before = untouched.host();
    std::vector<float> written, reference_written;
    size_t strays = 0;
    for (size_t i = 0; i < got.size(); i++) {
      if (same_bits(expected, before, i)) strays += !same_bits(got, before, i);
      else {
        written.push_back(to_float(got[i]));
        reference_written.push_back(to_float(expected[i]));
      }
    }
    expect(strays == 0, what + ": " + std::to_string(strays) + " cells written that should not be");
    expect_near(written, reference_written, tolerance, what + ", cache");
  }
}

}  // namespace

void test_cache() {
  const int heads[][2] = {{1, 1}, {4, 2}, {6, 1}, {3, 3}};
  for (int D : {2, 16, 30, 64, 80, 128}) {
    for (const auto& h : heads) {
      check_append<float, float>(D, h[0], h[1], true);
      check_append<bf16, bf16>(D, h[0], h[1], true);
    }
    check_append<float, bf16>(D, 2, 1, true);
    check_append<bf16, float>(D, 2, 1, false);
  }
}

}  // namespace cuda
}  // namespace nanochat
