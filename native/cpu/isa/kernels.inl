// All kernels for one instruction set. The including file defines NC_ISA (namespace and name), NC_LEVEL and opens the
// compiler's target region. Everything is in an unnamed namespace: a function shared by two instruction sets would be
// merged by the linker. With NC_INT8_DOT it is only what differs from the set below, products of int8 or with NC_BF16_DOT
// all of bf16, which dispatch.cpp puts together: data alone, because no function here may run before the processor was asked.
namespace nanochat {
namespace NC_ISA {
namespace {
#include "cpu/kernels/vec.inl"

#include "cpu/kernels/tile.inl"

#include "cpu/kernels/matmul.inl"

#ifndef NC_BF16_DOT
#include "cpu/kernels/quantized.inl"
#endif

#if NC_LEVEL == 2
#include "cpu/kernels/streams.inl"
#endif

#if defined(NC_BF16_DOT) || !defined(NC_INT8_DOT)
#include "cpu/kernels/attention.inl"

#include "cpu/kernels/norm.inl"

#include "cpu/kernels/gated_value.inl"
#endif

#ifndef NC_INT8_DOT
#include "cpu/kernels/rope.inl"
#endif

#include "cpu/kernels/probe.inl"
}  // namespace

#define NC_STRING_(x) #x
#define NC_STRING(x) NC_STRING_(x)
#define NC_KERNELS_OF(T) {matmul_panel<T>, attention_tile<T>, rms_norm<T>, append_kv<T>, gated_value<T>, convert<T>}
#define NC_QUANTIZED {quantize, matmul_quantized<WeightFormat::int8>, matmul_quantized<WeightFormat::int4>}
#define NC_PROBE {probe_read, probe_products<float>, probe_products<bf16>, probe_products<int8_t>}
#ifdef NC_INT8_DOT
#ifdef NC_BF16_DOT
extern const KernelsOf<bf16> b16;
const KernelsOf<bf16> b16 = NC_KERNELS_OF(bf16);
#else
extern const QuantizedKernels quantized;
const QuantizedKernels quantized = NC_QUANTIZED;
#endif
extern const ProbeKernels probe;
const ProbeKernels probe = NC_PROBE;
#else
extern const Kernels kernels;
const Kernels kernels = {NC_STRING(NC_ISA), kStreams, NC_KERNELS_OF(float), NC_KERNELS_OF(bf16), NC_QUANTIZED, embed, mix, rope_norm, NC_PROBE};
#endif
}  // namespace NC_ISA
}  // namespace nanochat
