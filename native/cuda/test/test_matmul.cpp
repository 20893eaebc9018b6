// gemv, gemv_of_norm, skinny, gemm, gemm_float
#include "cuda/reference.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

constexpr int kRowsBeyond = 2;  // of x and w, NaN

template <class T> std::vector<T> noise_and_nan(int rows, int k, int64_t stride, float scale) {
  std::vector<T> out = padded_noise<T>(rows, k, stride, scale);
  out.resize(static_cast<size_t>((rows + kRowsBeyond) * stride), from_float<T>(NAN));
  return out;
}

template <class T> struct Case {
  Case(int rows, int outputs, int k, Epilogue e) : Case(rows, outputs, k, e, outputs + 3) {}
  Case(int rows, int outputs, int k, Epilogue e, int64_t y_stride)
      : rows(rows), outputs(outputs), stride(pad_to(k, kRowUnit)), y_stride(y_stride), epilogue(e), x(noise_and_nan<T>(rows, k, stride, 1)),
        w(noise_and_nan<T>(outputs, k, stride, 1 / std::sqrt(static_cast<float>(k)))), y(noise<float>(static_cast<size_t>(rows * y_stride))),
        narrow(noise<T>(static_cast<size_t>(rows * y_stride))), partial(static_cast<size_t>(kPartialOutputs * stream->processors())),
        arrived(std::vector<uint32_t>(static_cast<size_t>(stream->processors()), 0)) {}

  Matmul<T> args(Side s) {
    void* out = epilogue == Epilogue::relu2 ? static_cast<void*>(narrow.at(s)) : y.at(s);
    return {x.at(s), w.at(s), stride, out, y_stride, rows, outputs, epilogue, 15, partial.at(s), arrived.at(s)};
  }

  void check(const std::function<void(Stream&, const Matmul<T>&)>& kernel, const char* name) {
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
  Array<float> partial;
  Array<uint32_t> arrived;
};

constexpr Epilogue kEpilogues[] = {Epilogue::store, Epilogue::add, Epilogue::relu2, Epilogue::softcap};

template <class T> void check_gemv() {
  int e = 0;
  for (int rows = 1; rows <= kGemvRows; rows++) {
    for (int outputs : {1, 2, 33, 130}) {
      for (int k : {1, 64, 77, 260, 640}) Case<T>(rows, outputs, k, kEpilogues[e++ % 4]).check(gemv<T>, "gemv");
    }
  }
  Case<T>(3, 5, 5000, Epilogue::store).check(gemv<T>, "gemv");
  Case<T>(1, 70 * stream->processors(), 200, Epilogue::store).check(gemv<T>, "gemv");  // more than one round of a block's warps
  Case<T>(4, 7, 9000, Epilogue::store).check(matmul<T>, "matmul");                     // more x than a gemv takes
}

// The product with the norm before it, which must leave what mix_norm leaves.
template <class T> void check_gemv_of_norm(int rows, int outputs, int C, bool mixes, bool picks) {
  Case<T> c(rows, outputs, C, Epilogue::store);
  Array<float> x(noise<float>(static_cast<size_t>(5) * C)), x0(noise<float>(static_cast<size_t>(5) * C)), x_out(static_cast<size_t>(5) * C);
  Array<int32_t> picked(std::vector<int32_t>{4, 0, 2, 2});
  Array<T> n(std::vector<T>(static_cast<size_t>(rows * c.stride), from_float<T>(0)));
  const auto norm = [&](Side s) {
    return MixNorm<T>{x.at(s), mixes ? x0.at(s) : nullptr, 0.75f, -0.25f, picks ? nullptr : x_out.at(s), picks ? picked.at(s) : nullptr, C, 1e-6f, n.at(s), c.stride};
  };
  const auto args = [&](Side s) {
    Matmul<T> a = c.args(s);
    a.x = n.at(s);
    return a;
  };
  c.y.upload();
  gemv_of_norm(*stream, args(Side::device), norm(Side::device));
  reference::mix_norm(norm(Side::host), rows);
  reference::matmul(args(Side::host));
  const std::string what = std::string("gemv_of_norm ") + type_name<T>() + " " + std::to_string(rows) + " x " + std::to_string(outputs) + ", C " + std::to_string(C) + (mixes ? " mixed" : "") +
                           (picks ? " picked" : "");
  expect_near(c.y.read(), c.y.expected(), sizeof(T) == 4 ? 1e-5 : 3e-3, what);
  expect_near(n.read(), n.expected(), sizeof(T) == 4 ? 1e-6 : 3e-3, what + ", n");
  if (picks) return;
  const auto written = static_cast<std::ptrdiff_t>(rows) * C;
  const std::vector<float> got = x_out.read(), expected = x_out.expected();
  expect_near({got.begin(), got.begin() + written}, {expected.begin(), expected.begin() + written}, 1e-6, what + ", x");
}

void check_skinny() {
  int e = 0;
  for (int rows : {1, 5, 8, 9, 16, 17, 31, 33, 40, 63, 64}) {
    for (int outputs : {1, 31, 33, 97}) Case<bf16>(rows, outputs, (const int[]){40, 320, 700, 1300}[e / 2 % 4], kEpilogues[e % 4]).check(skinny, "skinny"), e++;
  }
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

// Every shape of tile against the fp64 twin, with rows, outputs and k that end inside a tile.
void check_hopper_tiles() {
  int e = 0;
  for (int tile = 0; tile < kHopperTileCount; tile++) {
    for (int rows : {1, 65, 128, 200, 300, 513}) {
      for (int outputs : {8, 136, 520}) {
        const int k = 1 + static_cast<int>(random_bits() % 700);
        const auto run = [tile](Stream& s, const Matmul<bf16>& a) { expect(gemm_sm90(s, a, tile), "the product is for Hopper"); };
        Case<bf16>(rows, outputs, k, kEpilogues[e++ % 4], outputs + 8).check(run, "gemm_sm90");
      }
    }
  }
  Case<bf16> odd(70, 66, 64, Epilogue::store);
  expect(!gemm_sm90(*stream, odd.args(Side::device), 0), "rows of y that begin anywhere are left to the portable product");
}

// Products of real models, more tiles than multiprocessors: as the portable kernel has them.
void check_hopper_models() {
  struct Shape {
    int rows, outputs, k;
    Epilogue epilogue;
  };
  const Shape shapes[] = {{2048, 3840, 1280, Epilogue::store}, {2048, 1280, 5120, Epilogue::add}, {512, 6656, 1664, Epilogue::relu2}, {8192, 768, 768, Epilogue::add},
                          {2047, 6144, 2048, Epilogue::store}, {96, 4096, 768, Epilogue::softcap}, {2048, 2048, 2048, Epilogue::add}};
  for (const Shape& s : shapes) {
    Case<bf16> portable(s.rows, s.outputs, s.k, s.epilogue, s.outputs);
    const auto run = [&](void (*kernel)(Stream&, const Matmul<bf16>&)) {
      portable.y.upload();
      portable.narrow.upload();
      kernel(*stream, portable.args(Side::device));
      return s.epilogue == Epilogue::relu2 ? portable.narrow.read() : portable.y.read();
    };
    const std::vector<float> expected = run(gemm_portable);
    expect_near(run(gemm), expected, s.epilogue == Epilogue::relu2 ? 1e-3 : 1e-5, "gemm and gemm_portable, " + std::to_string(s.rows) + " x " + std::to_string(s.outputs) + ", k " + std::to_string(s.k));
  }
}

}  // namespace

void test_matmul() {
  check_gemv<float>();
  check_gemv<bf16>();
  int flags = 0;
  for (int rows = 1; rows <= kGemvRows; rows++) {
    for (int C : {24, 64, 130, 770}) {
      check_gemv_of_norm<float>(rows, 40 + C, C, flags & 1, flags & 2);
      check_gemv_of_norm<bf16>(rows, 3, C, flags & 1, flags & 2);
      flags++;
    }
  }
  check_skinny();
  int e = 0;
  for (int rows : {1, 5, 16, 31, 33, 64, 65, 127, 129}) {
    for (int outputs : {1, 63, 65, 130}) {
      const int k = 1 + static_cast<int>(random_bits() % 300);
      Case<bf16>(rows, outputs, k, kEpilogues[e % 4]).check(gemm, "gemm");
      Case<float>(rows, outputs, k, kEpilogues[e++ % 4]).check(gemm_float, "gemm_float");
    }
  }
  check_row_alone();
  if (stream->is_hopper()) {
    check_hopper_tiles();
    check_hopper_models();
  } else {
    std::printf("SKIP gemm_sm90: the device is not of compute capability 9.0\n");
  }
}

}  // namespace cuda
}  // namespace nanochat
