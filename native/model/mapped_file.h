#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "model/status.h"

namespace nanochat {

struct MappedRange;

// A file mapped read-only. When somebody makes it shorter meanwhile, what is gone reads as zeros and the file is damaged.
class MappedFile {
 public:
  static Status open(const std::string& path, std::shared_ptr<const MappedFile>* file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  Status check() const;  // an error once it is damaged
  // Lets go of the resident pages of [from, to) and a little around it; reading them again is legal.
  void release(const uint8_t* from, const uint8_t* to) const;

 private:
  MappedFile() = default;
  const uint8_t* data_ = nullptr;
  int64_t size_ = 0;
  std::string path_;
  MappedRange* range_ = nullptr;
};

}  // namespace nanochat
