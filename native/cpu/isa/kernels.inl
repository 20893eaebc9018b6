// All kernels for one instruction set. The including file defines NC_ISA (namespace and name), NC_LEVEL and opens the
// compiler's target region. Everything is in an unnamed namespace: a function shared by two instruction sets would be
// merged by the linker.
namespace nanochat {
namespace NC_ISA {
namespace {
#include "cpu/kernels/vec.inl"

#include "cpu/kernels/tile.inl"

#include "cpu/kernels/matmul.inl"

#include "cpu/kernels/quantized.inl"

#if NC_LEVEL == 2
#include "cpu/kernels/streams.inl"
#endif

#include "cpu/kernels/attention.inl"

#include "cpu/kernels/norm.inl"

#include "cpu/kernels/rope.inl"

#include "cpu/kernels/gated_value.inl"

#include "cpu/kernels/probe.inl"
}  // namespace

#define NC_STRING_(x) #x
#define NC_STRING(x) NC_STRING_(x)
extern const Kernels kernels;
const Kernels kernels = {
    NC_STRING(NC_ISA),
    kStreams,
    {matmul_panel<float>, attention_tile<float>, rms_norm<float>, append_kv<float>, gated_value<float>, convert<float>},
    {matmul_panel<bf16>, attention_tile<bf16>, rms_norm<bf16>, append_kv<bf16>, gated_value<bf16>, convert<bf16>},
    {quantize, matmul_quantized<WeightFormat::int8>, matmul_quantized<WeightFormat::int4>},
    embed,
    mix,
    rope_norm,
    {probe_read, probe_products<float>, probe_products<bf16>, probe_products<int8_t>},
};
}  // namespace NC_ISA
}  // namespace nanochat
