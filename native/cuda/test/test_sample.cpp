// sample: the same token as the definition, exactly; and drawn with the right frequencies.
#include <algorithm>

#include "cuda/reference.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

struct Case {
  Case(int V, std::vector<Draw> all, std::vector<float> values, std::vector<int32_t> pauses = {0})
      : V(V), B(static_cast<int>(all.size())), logits(std::move(values)), draws(all), pause_ids(pauses), drawn(std::vector<int32_t>(all.size() * 4, -1)),
        tokens(std::vector<Token>(all.size())) {
    for (int r = 0; r < B; r++) tokens[static_cast<size_t>(r)] = {r % V, -1, static_cast<int>(random_bits() % 3000), 0};
  }
  Sample args(Side s) { return {logits.at(s), V, B, draws.at(s), tokens.at(s), pause_ids.at(s), drawn.at(s)}; }

  void check(const std::string& what, int steps = 1) {
    for (int step = 0; step < steps; step++) {
      sample(*stream, args(Side::device));
      reference::sample(args(Side::host));
    }
    expect_status(nullptr, what);
    expect(drawn.read_raw() == drawn.host(), "sample: " + what + ", tokens");
    const std::vector<Token> next = tokens.read_raw();
    expect(std::memcmp(next.data(), tokens.host().data(), next.size() * sizeof(Token)) == 0, "sample: " + what + ", next inputs");
    const std::vector<Draw> after = draws.read_raw();
    expect(std::memcmp(after.data(), draws.host().data(), after.size() * sizeof(Draw)) == 0, "sample: " + what + ", steps left");
  }

  int V, B;
  Array<float> logits;
  Array<Draw> draws;
  Array<int32_t> pause_ids, drawn;
  Array<Token> tokens;
};

std::vector<Draw> some_draws(int rows, float temperature, int top_k) {
  std::vector<Draw> out;
  for (int r = 0; r < rows; r++) out.push_back({temperature, top_k, static_cast<uint32_t>(random_bits()), static_cast<uint32_t>(random_bits()), r, 4, 0});
  return out;
}

// Values of a few levels only, so that ties decide.
std::vector<float> levels(size_t count) {
  std::vector<float> out;
  for (size_t i = 0; i < count; i++) out.push_back(static_cast<float>(static_cast<int>(random_bits() % 5) - 2) * 0.5f);
  return out;
}

void check_frequencies() {
  const int V = 6, rows = 4000;
  const std::vector<float> logits = {0, 1, -1, 0.5f, 2, -3};
  std::vector<float> repeated;
  for (int r = 0; r < rows; r++) repeated.insert(repeated.end(), logits.begin(), logits.end());
  Case c(V, some_draws(rows, 0.8f, 0), repeated);
  sample(*stream, c.args(Side::device));
  const std::vector<int32_t> drawn = c.drawn.read_raw();
  double sum = 0, chi2 = 0;
  for (float v : logits) sum += std::exp(v / 0.8);
  for (int id = 0; id < V; id++) {
    const double expected = rows * std::exp(logits[static_cast<size_t>(id)] / 0.8) / sum;
    chi2 += std::pow(static_cast<double>(std::count(drawn.begin(), drawn.begin() + rows, id)) - expected, 2) / expected;
  }
  expect(chi2 < 40, "frequencies: chi-square " + std::to_string(chi2) + " with 5 degrees of freedom");  // beyond 40: 1 in 10^7
  expect_status(nullptr, "frequencies");
}

}  // namespace

void test_sample() {
  for (int V : {1, 3, 65, 320, 4099}) {
    const size_t count = static_cast<size_t>(V) * 3;
    Case(V, some_draws(3, 0, 0), noise<float>(count)).check("argmax of " + std::to_string(V), 2);
    Case(V, some_draws(3, 0, 5), levels(count)).check("argmax among equals of " + std::to_string(V));
    for (float temperature : {0.01f, 0.7f, 1.0f, 30.0f}) {
      Case(V, some_draws(3, temperature, 0), noise<float>(count, 4)).check("Gumbel-max of " + std::to_string(V), 2);
      for (int k : {1, 2, 50, V - 1, V, V + 1}) {
        if (k < 1) continue;
        Case(V, some_draws(3, temperature, k), noise<float>(count, 4)).check("top-" + std::to_string(k) + " of " + std::to_string(V));
        Case(V, some_draws(3, temperature, k), levels(count)).check("top-" + std::to_string(k) + " among equals of " + std::to_string(V));
      }
    }
  }
  std::vector<Draw> mixed = some_draws(5, 1, 0);
  mixed[1].temperature = 0;
  mixed[2].steps_left = 0;
  mixed[3].steps_left = 1;
  mixed[4].top_k = 2;
  std::vector<int32_t> pauses = {3, 0, 1, 2};
  Case(8, mixed, noise<float>(40), pauses).check("rows that end", 4);
  check_frequencies();
}

}  // namespace cuda
}  // namespace nanochat
