#include <cstring>

#include "cpu/kernels.h"
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace nanochat {

#if defined(__x86_64__) && defined(__GNUC__)
namespace avx512bf16 { extern const KernelsOf<bf16> b16; extern const ProbeKernels probe; }
namespace avx512vnni { extern const QuantizedKernels quantized; extern const ProbeKernels probe; }
namespace avx512 { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
#elif defined(__aarch64__) || defined(_M_ARM64)
#if defined(__GNUC__)
namespace neonbf16 { extern const KernelsOf<bf16> b16; extern const ProbeKernels probe; }
namespace neondot { extern const QuantizedKernels quantized; extern const ProbeKernels probe; }
#endif
namespace neon { extern const Kernels kernels; }
#endif
namespace plain { extern const Kernels kernels; }
namespace reference { extern const Kernels kernels; }

#if defined(__x86_64__) && defined(__GNUC__)
// note: __builtin_cpu_supports of clang 14 does not know it. Whether the system keeps the registers it says of AVX-512.
static bool supports_avx512_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
}
#endif

#if defined(__aarch64__) && defined(__GNUC__)
struct ArmFeatures { bool asimddp, bf16; };

static ArmFeatures arm_features() {
#if defined(__linux__)
  // note: HWCAP_ASIMDDP and HWCAP2_BF16, which older headers lack
  return {(getauxval(AT_HWCAP) >> 20 & 1) != 0, (getauxval(AT_HWCAP2) >> 14 & 1) != 0};
#elif defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  return {has("hw.optional.arm.FEAT_DotProd"), has("hw.optional.arm.FEAT_BF16")};
#else
  return {false, false};
#endif
}
#endif

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__))
static void replace(Kernels* all, const QuantizedKernels& quantized) { all->quantized = quantized; }
static void replace(Kernels* all, const KernelsOf<bf16>& b16) { all->b16 = b16; }

template <class Part> static Kernels extended(Kernels below, const char* isa, const Part& part, const ProbeKernels& probe) {
  below.isa = isa;
  replace(&below, part);
  below.probe = probe;
  return below;
}
#endif

// The tables this machine can run, best first.
static int runnable(const Kernels* tables[8]) {
  int count = 0;
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni");
  static const Kernels with_vnni = extended(avx512::kernels, "avx512vnni", avx512vnni::quantized, avx512vnni::probe);
  static const Kernels with_bf16 = extended(with_vnni, "avx512bf16", avx512bf16::b16, avx512bf16::probe);
  if (has_vnni && supports_avx512_bf16()) tables[count++] = &with_bf16;
  if (has_vnni) tables[count++] = &with_vnni;
  if (has_avx512) tables[count++] = &avx512::kernels;
  if (has_avx2) tables[count++] = &avx2::kernels;
#elif defined(__aarch64__) || defined(_M_ARM64)
#if defined(__GNUC__)
  static const Kernels with_dot = extended(neon::kernels, "neondot", neondot::quantized, neondot::probe);
  static const Kernels with_bf16 = extended(with_dot, "neonbf16", neonbf16::b16, neonbf16::probe);
  const ArmFeatures has = arm_features();
  if (has.asimddp && has.bf16) tables[count++] = &with_bf16;
  if (has.asimddp) tables[count++] = &with_dot;
#endif
  tables[count++] = &neon::kernels;
#endif
  tables[count++] = &plain::kernels;
  return count;
}

const Kernels* find_kernels(const char* isa) {
  const Kernels* tables[8];
  const int count = runnable(tables);
  if (!isa || !*isa) return tables[0];
  for (int i = 0; i < count; i++) {
    if (std::strcmp(tables[i]->isa, isa) == 0) return tables[i];
  }
  return std::strcmp(isa, "reference") == 0 ? &reference::kernels : nullptr;  // for tests; never listed
}

int list_kernels(const char* names[8]) {
  const Kernels* tables[8];
  const int count = runnable(tables);
  for (int i = 0; i < count; i++) names[i] = tables[i]->isa;
  return count;
}

}  // namespace nanochat
