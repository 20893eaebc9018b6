// Kernels on their own: each prints its lines and returns them as JSON objects.
#pragma once
#include <string>

namespace nanochat {
namespace cuda {

std::string bench_attention(int heads, int length, int window);

}  // namespace cuda
}  // namespace nanochat
