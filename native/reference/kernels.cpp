#include "reference/reference.h"

namespace nanochat {
namespace reference {

template <class T> static KernelsOf<T> kernels_of() {
  return {matmul_panel<T>, attention_tile<T>, rms_norm<T>, append_kv<T>, gated_value<T>, convert<T>};
}

static Kernels make_kernels() {
  Kernels kernels = {};  // note: there are no loops at the machine's limits to measure
  kernels.isa = "reference";
  kernels.streams = 1;
  kernels.f32 = kernels_of<float>();
  kernels.b16 = kernels_of<bf16>();
  kernels.quantized = {quantize, matmul_quantized<WeightFormat::int8>, matmul_quantized<WeightFormat::int4>};
  kernels.embed = embed;
  kernels.mix = mix;
  kernels.rope_norm = rope_norm;
  return kernels;
}

const Kernels kernels = make_kernels();

}  // namespace reference
}  // namespace nanochat
