// gemv, gemm, gemm_float
#include "cuda/reference.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

template <class T> struct Case {
  Case(int rows, int outputs, int k, Epilogue e)
      : rows(rows), outputs(outputs), stride(pad_to(k, kRowUnit)), y_stride(outputs + 3), epilogue(e), x(padded_noise<T>(rows, k, stride)),
        w(padded_noise<T>(outputs, k, stride, 1 / std::sqrt(static_cast<float>(k)))), y(noise<float>(static_cast<size_t>(rows * y_stride))),
        narrow(noise<T>(static_cast<size_t>(rows * y_stride))) {}

  Matmul<T> args(Side s) {
    void* out = epilogue == Epilogue::relu2 ? static_cast<void*>(narrow.at(s)) : y.at(s);
    return {x.at(s), w.at(s), stride, out, y_stride, rows, outputs, epilogue, 15};
  }

  void check(void (*kernel)(Stream&, const Matmul<T>&), const char* name) {
    y.upload();
    narrow.upload();
    kernel(*stream, args(Side::device));
    reference::matmul(args(Side::host));
    const std::string what = std::string(name) + " " + type_name<T>() + " " + std::to_string(rows) + " x " + std::to_string(outputs) + ", k " + std::to_string(stride) + ", epilogue " + std::to_string(static_cast<int>(epilogue));
    const bool is_narrow = epilogue == Epilogue::relu2 && sizeof(T) == 2;
    if (epilogue == Epilogue::relu2) expect_near(narrow.read(), narrow.expected(), is_narrow ? 3e-3 : 1e-5, what);
    else expect_near(y.read(), y.expected(), 1e-5, what);
  }

  int rows, outputs;
  int64_t stride, y_stride;
  Epilogue epilogue;
  Array<T> x, w;
  Array<float> y;
  Array<T> narrow;
};

constexpr Epilogue kEpilogues[] = {Epilogue::store, Epilogue::add, Epilogue::relu2, Epilogue::softcap};

template <class T> void check_gemv() {
  int e = 0;
  for (int rows = 1; rows <= kGemvRows; rows++) {
    for (int outputs : {1, 2, 33, 130}) {
      for (int k : {1, 64, 77, 260, 640}) Case<T>(rows, outputs, k, kEpilogues[e++ % 4]).check(gemv<T>, "gemv");
    }
  }
  Case<T>(3, 5, 6000, Epilogue::store).check(gemv<T>, "gemv");  // more than one piece of x
}

// A row does not change with the rows beside it by more than rounding.
void check_row_alone() {
  Case<bf16> many(70, 66, 256, Epilogue::store);
  many.y.upload();
  gemm(*stream, many.args(Side::device));
  const std::vector<float> all = many.y.read();
  for (int rows : {1, 4, 7}) {
    Matmul<bf16> first = many.args(Side::device);
    first.rows = rows;
    matmul(*stream, first);
    const std::vector<float> some = many.y.read();
    const auto count = static_cast<std::ptrdiff_t>((rows - 1) * many.y_stride + many.outputs);
    expect_near({some.begin(), some.begin() + count}, {all.begin(), all.begin() + count}, 1e-6, "the first " + std::to_string(rows) + " rows alone");
  }
}

}  // namespace

void test_matmul() {
  check_gemv<float>();
  check_gemv<bf16>();
  int e = 0;
  for (int rows : {1, 5, 16, 31, 33, 64, 65, 127, 129}) {
    for (int outputs : {1, 63, 65, 130}) {
      const int k = 1 + static_cast<int>(random_bits() % 300);
      Case<bf16>(rows, outputs, k, kEpilogues[e % 4]).check(gemm, "gemm");
      Case<float>(rows, outputs, k, kEpilogues[e++ % 4]).check(gemm_float, "gemm_float");
    }
  }
  check_row_alone();
}

}  // namespace cuda
}  // namespace nanochat
