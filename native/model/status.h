#pragma once
#include <string>
#include <utility>

namespace nanochat {

// What went wrong, up to the addon, which turns it into a JavaScript error with this code.
struct Status {
  const char* code = nullptr;  // ERR_* of lib/errors.ts, or ERR_ABORTED; null: no error
  std::string message;

  bool ok() const { return code == nullptr; }
  static Status error(const char* code, std::string message) { return Status{code, std::move(message)}; }
};

}  // namespace nanochat
