// Kernels on their own: each prints its line and returns it as a JSON object.
#pragma once
#include <string>

namespace nanochat {
namespace cuda {

std::string bench_attention(int length, int window);

}  // namespace cuda
}  // namespace nanochat
