// Every kernel against its fp64 twin on odd shapes: nc_gpu_test on a GPU, nc_cuda_emulation_test on any CPU. Prints the
// seed first and `N checks, N failures` last.     [seed] [a suite's name, or `once`: each in one order of the threads only, and of decode_step a part]
#include <chrono>
#include <cstdlib>

#include "cuda/test/check.h"
#ifdef NC_EMULATION
#include "cuda/emulation/block.h"
#endif

namespace nanochat {
namespace cuda {

std::shared_ptr<Stream> stream;
std::mt19937 random_bits;
int checks = 0, failures = 0;

void expect_status(const char* text, const std::string& what) {
  stream->synchronize();
  const Status status = stream->take_status();
  if (!text) expect(status.ok(), what + ": " + status.message);
  else expect(status.message.find(text) != std::string::npos, what + ": expected \"" + text + "\" but got \"" + status.message + "\"");
}

double relative_error(const std::vector<float>& out, const std::vector<float>& expected) {
  if (out.size() != expected.size()) return INFINITY;
  double error = 0, norm = 0;
  for (size_t i = 0; i < out.size(); i++) {
    error += std::pow(static_cast<double>(out[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

void expect_near(const std::vector<float>& out, const std::vector<float>& expected, double tolerance, const std::string& what) {
  const double error = relative_error(out, expected);
  expect(error <= tolerance, what + ": relative error " + std::to_string(error) + " above " + std::to_string(tolerance));
  expect_status(nullptr, what);
}

}  // namespace cuda
}  // namespace nanochat

namespace {

enum Kind { first, setting, again };  // setting: of the emulated device, for the suites after it; again: not with `once`

struct Suite {
  const char* name;
  void (*run)();
  Kind kind = first;
};

// On the emulated device threads run in random order, and what has barriers to miss in the two others as well; what depends on
// the number of processors runs with few and with many.
void set_up_emulation(std::vector<Suite>* suites) {
#ifdef NC_EMULATION
  using namespace nanochat::cuda;
  using emulation::Order;
  suites->insert(suites->begin(), {{"random order", [] { emulation::set_order(Order::random); }, setting}, {"40 processors", [] { emulation::processors = 40; }, setting},
                                   {"matmul", test_matmul, again}, {"attention", test_attention, again}, {"11 processors", [] { emulation::processors = 11; }, setting},
                                   {"decode_step", test_one_step}, {"3 processors", [] { emulation::processors = 3; }, setting}});
  suites->insert(suites->end(), {{"ascending order", [] { emulation::set_order(Order::ascending); }, setting}, {"model", test_model}, {"memory", test_memory}, {"rows", test_rows, again},
                                 {"matmul", test_matmul, again}, {"attention", test_attention, again}, {"decode_step", test_one_step, again},
                                 {"descending order", [] { emulation::set_order(Order::descending); }, setting}, {"rows", test_rows, again}, {"matmul", test_matmul, again},
                                 {"attention", test_attention, again}, {"decode_step", test_one_step, again}, {"emulation", test_emulation}});
#else
  suites->push_back({"model", nanochat::cuda::test_model});
#endif
}

}  // namespace

int main(int argc, char** argv) {
  using namespace nanochat;
  using namespace nanochat::cuda;
  const auto start = std::chrono::steady_clock::now();
  const unsigned seed = argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : std::random_device()();
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_bits.seed(seed);
  std::printf("seed %u\n", seed);
  std::unique_ptr<Stream> opened;
  const Status status = Stream::open(0, &opened);
  if (!status.ok()) {
    std::printf("SKIP %s\n", status.message.c_str());
    return 77;
  }
  stream = std::move(opened);
  stream->enter();
  std::vector<Suite> suites = {{"index", test_index}, {"rows", test_rows}, {"matmul", test_matmul}, {"cache", test_cache}, {"attention", test_attention}, {"sample", test_sample}, {"probe", test_probe}, {"decode_step", test_decode_step, again}};
  set_up_emulation(&suites);
  const char* wanted = argc > 2 ? argv[2] : nullptr;
  const bool once = wanted && std::strcmp(wanted, "once") == 0;
  for (const auto& suite : suites) {
    if (once ? suite.kind == again : wanted && suite.kind != setting && std::strcmp(wanted, suite.name) != 0) continue;
    const int before = checks, failed = failures;
    const auto began = std::chrono::steady_clock::now();
    suite.run();
    std::printf("%s: %d checks, %d failures, %.1f s\n", suite.name, checks - before, failures - failed,
                std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  std::printf("%d checks, %d failures in %.1f s\n", checks, failures, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return failures == 0 && checks > 0 ? 0 : 1;
}
