#include "cuda/runtime.h"

namespace nanochat {
namespace cuda {

Status Stream::take_status() { return std::exchange(status_, Status{}); }

void Stream::fail(const char* code, const std::string& message) {
  if (status_.ok()) status_ = Status::error(code, message);
}

}  // namespace cuda
}  // namespace nanochat
