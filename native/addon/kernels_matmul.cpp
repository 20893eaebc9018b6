#include <algorithm>
#include <memory>

#include "addon/arguments.h"
#include "addon/kernels.h"
#include "cpu/buffer.h"

namespace nanochat {

namespace {

constexpr int kRowBlock = 48;  // as the forward pass takes them

// A matrix (outputs, k) in panels of 64 outputs.
struct Packed {
  bool is_bf16;
  int outputs, k;
  Buffer data;
};

constexpr napi_type_tag kPackedTag = {0x9c4f1b7e2d6a4c83, 0xb1e05d3f7a928c46};

int64_t panels_of(const Packed& w) { return (w.outputs + kPanel - 1) / kPanel; }

// Lanes beyond the last output, and the other half of an odd k's last pair, are zero.
template <class T> void pack_rows(const T* w, Packed* packed) {
  constexpr int step = kStep<T>;
  const int64_t panel = panel_elements<T>(packed->k);
  packed->data = Buffer(static_cast<size_t>(panels_of(*packed) * panel) * sizeof(T));
  T* out = packed->data.template as<T>();
  std::fill_n(out, panels_of(*packed) * panel, from_float<T>(0.0f));
  for (int64_t n = 0; n < packed->outputs; n++) {
    for (int64_t k = 0; k < packed->k; k++) out[n / kPanel * panel + (k / step * kPanel + n % kPanel) * step + k % step] = w[n * packed->k + k];
  }
}

// x (rows, k) with every row filled up to whole steps of k.
template <class T> Buffer pad_rows(const T* x, int64_t rows, int k) {
  const int stride = round_up(k, kStep<T>);
  Buffer padded(static_cast<size_t>(rows * stride) * sizeof(T));
  T* out = padded.template as<T>();
  for (int64_t r = 0; r < rows; r++) {
    std::copy_n(x + r * k, k, out + r * stride);
    std::fill_n(out + r * stride + k, stride - k, from_float<T>(0.0f));
  }
  return padded;
}

template <class T> Napi::Value matmul_of(Arguments& args, const Kernels& kernels, int64_t repeat, int64_t rows, Epilogue epilogue, float cap, const Packed& w) {
  const bool writes_t = epilogue == Epilogue::relu2;
  const int k = round_up(w.k, kStep<T>);
  const T* x = args.array<T>("x", rows * w.k);
  void* y = writes_t ? static_cast<void*>(args.array<T>("y", rows * w.outputs)) : args.array<float>("y", rows * w.outputs);
  const size_t y_size = writes_t ? sizeof(T) : sizeof(float);
  Buffer padded;
  if (k != w.k) {
    padded = pad_rows(x, rows, w.k);
    x = padded.template as<T>();
  }
  return timed(args.env(), repeat, [&] {
    for (int64_t panel = 0; panel < panels_of(w); panel++) {
      for (int64_t row = 0; row < rows; row += kRowBlock) {
        MatmulPanel<T> a;
        a.x = x + row * k;
        a.x_stride = k;
        a.w = w.data.template as<T>() + panel * panel_elements<T>(w.k);
        a.y = static_cast<uint8_t*>(y) + (row * w.outputs + panel * kPanel) * y_size;
        a.y_stride = w.outputs;
        a.rows = static_cast<int>(std::min<int64_t>(kRowBlock, rows - row));
        a.k = k;
        a.outputs = static_cast<int>(std::min<int64_t>(kPanel, w.outputs - panel * kPanel));
        a.epilogue = epilogue;
        a.cap = cap;
        kernels.of<T>().matmul_panel(a);
      }
    }
  });
}

}  // namespace

Napi::Value pack_matrix(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const int outputs = args.integer("outputs", 1, kMostWidth), k = args.integer("k", 1, kMostWidth);
  auto packed = std::make_unique<Packed>();
  packed->outputs = outputs;
  packed->k = k;
  packed->is_bf16 = with_type_of(args.at(2), [&](auto element) {
    using T = decltype(element);
    pack_rows(args.array<T>("w", static_cast<int64_t>(outputs) * k), packed.get());
    return std::is_same<T, bf16>::value;
  });
  const int64_t bytes = static_cast<int64_t>(packed->data.bytes());
  const auto handle = Napi::External<Packed>::New(info.Env(), packed.get(), [bytes](Napi::BasicEnv env, Packed* data) {
    Napi::MemoryManagement::AdjustExternalMemory(env, -bytes);
    delete data;
  });
  packed.release();
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), bytes);
  handle.TypeTag(&kPackedTag);
  return handle;
}

Napi::Value matmul(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat(), rows = args.rows();
  const Epilogue epilogue = static_cast<Epilogue>(args.integer("epilogue", 0, 3));
  const float cap = args.number("softcap");
  const Napi::Value handle = args.next();
  if (!handle.IsExternal() || !handle.As<Napi::External<Packed>>().CheckTypeTag(&kPackedTag)) args.invalid("Expected a packed matrix for w.");
  const Packed& w = *handle.As<Napi::External<Packed>>().Data();
  return w.is_bf16 ? matmul_of<bf16>(args, kernels, repeat, rows, epilogue, cap, w) : matmul_of<float>(args, kernels, repeat, rows, epilogue, cap, w);
}

}  // namespace nanochat
