#include "model/mapped_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include "model/mapped_range.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace nanochat {

#if defined(_WIN32)

Status MappedFile::open(const std::string& path, std::shared_ptr<const MappedFile>* file) {
  const auto failed = [&] { return Status::error("ERR_CHECKPOINT_NOT_FOUND", "Could not map " + path + ": Windows error " + std::to_string(GetLastError()) + "."); };
  const int length = MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, nullptr, 0);
  std::wstring wide(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, &wide[0], length);
  const HANDLE handle = CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (handle == INVALID_HANDLE_VALUE) return failed();
  LARGE_INTEGER size;
  const HANDLE mapping = GetFileSizeEx(handle, &size) && size.QuadPart > 0 ? CreateFileMappingW(handle, nullptr, PAGE_READONLY, 0, 0, nullptr) : nullptr;
  const void* data = mapping ? MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0) : nullptr;
  const Status status = data ? Status{} : failed();
  if (mapping) CloseHandle(mapping);
  CloseHandle(handle);
  if (!data) return status;
  auto mapped = std::shared_ptr<MappedFile>(new MappedFile());
  mapped->data_ = static_cast<const uint8_t*>(data);
  mapped->size_ = size.QuadPart;
  *file = std::move(mapped);
  return {};
}

MappedFile::~MappedFile() { UnmapViewOfFile(data_); }

Status MappedFile::check() const { return {}; }  // note: Windows refuses to shorten a mapped file

void MappedFile::release(const uint8_t*, const uint8_t*) const {}

#else

Status MappedFile::open(const std::string& path, std::shared_ptr<const MappedFile>* file) {
  const auto failed = [&] { return Status::error("ERR_CHECKPOINT_NOT_FOUND", "Could not map " + path + ": " + std::strerror(errno) + "."); };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // note: or a pipe would wait here for a writer, and the process for it
  if (fd < 0) return failed();
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) {
    ::close(fd);
    return Status::error("ERR_CHECKPOINT_FORMAT", "Expected " + path + " to be a file with content.");
  }
  void* data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
  const Status status = data == MAP_FAILED ? failed() : Status{};
  ::close(fd);
  if (!status.ok()) return status;
  auto mapped = std::shared_ptr<MappedFile>(new MappedFile());
  mapped->data_ = static_cast<const uint8_t*>(data);
  mapped->size_ = info.st_size;
  mapped->path_ = path;
  mapped->range_ = guard_range(data, static_cast<size_t>(info.st_size));
  *file = std::move(mapped);
  return {};
}

MappedFile::~MappedFile() {
  unguard_range(range_);
  munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
}

Status MappedFile::check() const {
  if (!is_damaged(range_)) return {};
  return Status::error("ERR_CHECKPOINT_FORMAT", path_ + " became shorter while it was in use. Restore it and load the model again; replace such a file by renaming, not by writing into it.");
}

// A fault maps the cached pages around it too: 64 KB, or as much as one large folio has.
constexpr uintptr_t kMappedAround = 2 << 20;

void MappedFile::release(const uint8_t* from, const uint8_t* to) const {
  const uintptr_t first = reinterpret_cast<uintptr_t>(data_), last = first + static_cast<uintptr_t>(size_);
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = std::max(first, (reinterpret_cast<uintptr_t>(from) - kMappedAround) / page * page);
  const uintptr_t end = std::min(last, reinterpret_cast<uintptr_t>(to) + kMappedAround);
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

#endif

}  // namespace nanochat
