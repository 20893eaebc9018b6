// sample: the same token as the definition, exactly; and drawn with the right frequencies.
#include <algorithm>
#include <tuple>

#include "cuda/reference.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

struct Case {
  Case(int V, std::vector<Draw> all, std::vector<float> values, std::vector<int32_t> pauses = {0})
      : V(V), B(static_cast<int>(all.size())), logits(std::move(values)), draws(all), pause_ids(pauses), drawn(std::vector<int32_t>(all.size() * 4, -1)),
        tokens(std::vector<Token>(all.size())), kept(all.size()), candidates(all.size() * static_cast<size_t>(sample_parts(V))), arrived(std::vector<uint32_t>(all.size(), 0)) {
    for (int r = 0; r < B; r++) tokens[static_cast<size_t>(r)] = {r % V, -1, static_cast<int>(random_bits() % 3000), 0};
  }
  Sample args(Side s) { return {logits.at(s), V, B, draws.at(s), tokens.at(s), pause_ids.at(s), drawn.at(s), true, kept.at(s), candidates.at(s), arrived.at(s)}; }

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
    for (size_t r = 0; r < after.size(); r++) {
      expect(after[r].steps_left == draws[r].steps_left && after[r].taken == draws[r].taken, "sample: " + what + ", steps left");
    }
  }

  int V, B;
  Array<float> logits;
  Array<Draw> draws;
  Array<int32_t> pause_ids, drawn;
  Array<Token> tokens;
  Array<Kept> kept;
  Array<Candidate> candidates;
  Array<uint32_t> arrived;
};

std::vector<Draw> some_draws(int rows, float temperature, int top_k, double top_p = 1, double min_p = 0) {
  std::vector<Draw> out;
  for (int r = 0; r < rows; r++) {
    out.push_back({temperature, top_k, static_cast<uint32_t>(random_bits()), static_cast<uint32_t>(random_bits()), r, 4, 0, top_p, min_p});
  }
  return out;
}

double uniform(double from, double to) { return std::uniform_real_distribution<double>(from, to)(random_bits); }

// Values of a few levels only, so that ties decide.
std::vector<float> levels(size_t count) {
  std::vector<float> out;
  for (size_t i = 0; i < count; i++) out.push_back(static_cast<float>(static_cast<int>(random_bits() % 5) - 2) * 0.5f);
  return out;
}

// note: p of no round fraction, because a sum of equal probabilities that is exactly p depends on its rounding
void check_filters(int V) {
  const size_t count = static_cast<size_t>(V) * 3;
  const std::string of = " of " + std::to_string(V);
  for (float temperature : {0.1f, 2.0f}) {
    for (int k : {0, 7, V - 1}) {
      const double p = uniform(0, 1), least = uniform(0, 1);
      const std::string what = "top-k " + std::to_string(k) + ", top-p " + std::to_string(p) + ", min-p " + std::to_string(least) + of;
      Case(V, some_draws(3, temperature, k, p), noise<float>(count, 4)).check(what + ", without min-p");
      Case(V, some_draws(3, temperature, k, p), levels(count)).check(what + ", without min-p, among equals");
      Case(V, some_draws(3, temperature, k, 1, least), noise<float>(count, 4)).check(what + ", without top-p");
      Case(V, some_draws(3, temperature, k, p, least / 100), noise<float>(count, 4)).check(what);
    }
  }
  for (double p : {0.0, 1e-12, 1 - 1e-6}) Case(V, some_draws(3, 1, 0, p), noise<float>(count, 2)).check("top-p " + std::to_string(p) + of);
  for (double p : {1e-300, 1.0}) Case(V, some_draws(3, 1, 0, 1, p), levels(count)).check("min-p " + std::to_string(p) + of);
}

// Only what top-p and min-p keep is ever drawn, and all of it.
void check_nucleus() {
  const int V = 8, rows = 100;  // probabilities of 1/2, 1/4, 1/8, ...: 0.8 takes three, and a tenth of the largest four
  std::vector<float> logits;
  for (int r = 0; r < rows; r++) for (int id = 0; id < V; id++) logits.push_back(-static_cast<float>(id) * std::log(2.0f));
  for (const auto& [top_p, min_p, kept] : {std::tuple<double, double, int>{0.8, 0, 3}, {1, 0.1, 4}, {0.6, 0.1, 2}, {0.99, 0.4, 2}}) {
    Case c(V, some_draws(rows, 1, 0, top_p, min_p), logits);
    sample(*stream, c.args(Side::device));
    const std::vector<int32_t> drawn = c.drawn.read_raw();
    for (int id = 0; id < V; id++) {
      const auto times = std::count(drawn.begin(), drawn.begin() + rows, id);
      expect((times > 0) == (id < kept), "top-p " + std::to_string(top_p) + " and min-p " + std::to_string(min_p) + " draw " + std::to_string(id) + " " + std::to_string(times) + " times");
    }
  }
  expect_status(nullptr, "nucleus");
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
  for (int V : {1, 65, 1500}) check_filters(V);
  check_nucleus();
  std::vector<Draw> mixed = some_draws(5, 1, 0);
  mixed[1].temperature = 0;
  mixed[2].steps_left = 0;
  mixed[3].steps_left = 1;
  mixed[4].top_k = 2;
  mixed[3].top_p = 0.4;
  std::vector<int32_t> pauses = {3, 0, 1, 2};
  Case(8, mixed, noise<float>(40), pauses).check("rows that end", 4);
  check_frequencies();
}

}  // namespace cuda
}  // namespace nanochat
