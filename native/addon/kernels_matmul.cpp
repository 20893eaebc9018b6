#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "addon/arguments.h"
#include "addon/kernels.h"
#include "cpu/buffer.h"
#include "cpu/weights.h"

namespace nanochat {

namespace {

// A matrix (outputs, k) and the memory it lies in.
struct Packed {
  PackedMatrix matrix;
  Buffer data;
};

constexpr napi_type_tag kPackedTag = {0x9c4f1b7e2d6a4c83, 0xb1e05d3f7a928c46};

template <class T> void pack_rows(const T* w, Packed* packed) {
  const PackedMatrix& m = packed->matrix;
  std::vector<float> row(static_cast<size_t>(m.k));
  std::memset(packed->data.as<void>(), 0, packed->data.bytes());
  for (int n = 0; n < m.outputs; n++) {
    for (int k = 0; k < m.k; k++) row[static_cast<size_t>(k)] = to_float(w[static_cast<int64_t>(n) * m.k + k]);
    pack_output(m.type, row.data(), m.k, n % kPanel, packed->data.as<uint8_t>() + n / kPanel * m.panel_size());
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

// Calls f for all panels, as many at once as the kernels take, and blocks of rows, with the part of the arguments that all types share.
template <class A, class F> void each_panel(const Kernels& kernels, const PackedMatrix& w, int64_t rows, Epilogue epilogue, float cap, const F& f) {
  const int64_t at_once = panels_at_once<A>(kernels, rows);
  for (int64_t panel = 0; panel < w.panels(); panel += at_once) {
    const int64_t end = std::min<int64_t>(panel + at_once, w.panels());
    for (int64_t row = 0; row < rows; row += kRowBlock) {
      A a{};
      a.rows = static_cast<int>(std::min<int64_t>(kRowBlock, rows - row));
      a.panels = static_cast<int>(end - panel);
      a.outputs = static_cast<int>(std::min<int64_t>(kPanel, w.outputs - (end - 1) * kPanel));
      a.epilogue = epilogue;
      a.cap = cap;
      f(a, panel, row);
    }
  }
}

template <class T> Napi::Value matmul_of(Arguments& args, const Kernels& kernels, int64_t repeat, int64_t rows, Epilogue epilogue, float cap, const PackedMatrix& w) {
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
    each_panel<MatmulPanel<T>>(kernels, w, rows, epilogue, cap, [&](MatmulPanel<T>& a, int64_t panel, int64_t row) {
      a.x = x + row * k;
      a.x_stride = k;
      a.w = reinterpret_cast<const T*>(w.panel(panel));
      a.k = k;
      a.y = static_cast<uint8_t*>(y) + (row * w.outputs + panel * kPanel) * y_size;
      a.y_stride = w.outputs;
      kernels.of<T>().matmul_panel(a);
    });
  });
}

// Rows of `columns` values in groups of `group`, and their memory.
struct OwnedRows {
  OwnedRows(int64_t rows, int columns, int group) {
    const int64_t stride = round_up(columns, kPanel);
    values = Buffer(static_cast<size_t>(rows * stride));
    groups = Buffer(static_cast<size_t>(rows * stride / group) * sizeof(ActivationGroup));
    view = {values.as<int8_t>(), groups.as<ActivationGroup>(), stride, stride / group, group};
  }
  Buffer values, groups;
  QuantizedRows view;
};

// x is rounded to int8 before the kernel runs; what relu2 rounds to int8 is made float32 again after.
Napi::Value matmul_quantized(Arguments& args, const Kernels& kernels, int64_t repeat, int64_t rows, Epilogue epilogue, float cap, const PackedMatrix& w) {
  const int group = group_size(w.format());
  const float* x = args.array<float>("x", rows * w.k);
  float* y = args.array<float>("y", rows * w.outputs);
  OwnedRows inputs(rows, w.k, group), hidden(rows, epilogue == Epilogue::relu2 ? w.outputs : kPanel, group);
  for (int64_t r = 0; r < rows; r++) kernels.quantized.quantize(x + r * w.k, w.k, inputs.view.at(r, 0));
  const Napi::Value nanoseconds = timed(args.env(), repeat, [&] {
    each_panel<QuantizedPanel>(kernels, w, rows, epilogue, cap, [&](QuantizedPanel& a, int64_t panel, int64_t row) {
      a.x = inputs.view.at(row, 0);
      a.w = w.panel(panel);
      a.groups = groups_of(w.format(), w.k);
      a.y = y + row * w.outputs + panel * kPanel;
      a.y_stride = w.outputs;
      if (epilogue == Epilogue::relu2) a.hidden = hidden.view.at(row, panel * kPanel);
      w.type == ComputeType::int8 ? kernels.quantized.matmul_int8(a) : kernels.quantized.matmul_int4(a);
    });
  });
  if (epilogue == Epilogue::relu2) {
    for (int64_t r = 0; r < rows; r++) {
      for (int n = 0; n < w.outputs; n++) {
        const QuantizedRows at = hidden.view.at(r, n);
        y[r * w.outputs + n] = at.groups->scale * static_cast<float>(*at.values);
      }
    }
  }
  return nanoseconds;
}

}  // namespace

Napi::Value pack_matrix(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const int outputs = args.integer("outputs", 1, kMostWidth), k = args.integer("k", 1, kMostWidth);
  auto packed = std::make_unique<Packed>();
  packed->matrix.type = expect_compute_type(args.at(3));
  packed->matrix.outputs = outputs;
  packed->matrix.k = k;
  with_type_of(args.at(2), [&](auto element) {
    const auto* w = args.array<decltype(element)>("w", static_cast<int64_t>(outputs) * k);
    packed->data = Buffer(static_cast<size_t>(packed->matrix.panels() * packed->matrix.panel_size()));
    packed->matrix.data = packed->data.as<uint8_t>();
    pack_rows(w, packed.get());
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
  const PackedMatrix& w = handle.As<Napi::External<Packed>>().Data()->matrix;
  switch (w.type) {
    case ComputeType::float32: return matmul_of<float>(args, kernels, repeat, rows, epilogue, cap, w);
    case ComputeType::bfloat16: return matmul_of<bf16>(args, kernels, repeat, rows, epilogue, cap, w);
    default: return matmul_quantized(args, kernels, repeat, rows, epilogue, cap, w);
  }
}

}  // namespace nanochat
