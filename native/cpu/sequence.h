// One row's cached keys and values, in pages of 64 positions that forks share until one of them writes.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cpu/buffer.h"

namespace nanochat {

struct Page {
  explicit Page(size_t bytes) : data(bytes) {}
  std::atomic<int> owners{1};
  Buffer data;
};

// Gives out pages of one model and keeps a few that came back: the first touch of fresh memory is slow.
class PagePool {
 public:
  explicit PagePool(size_t page_bytes) : page_bytes_(page_bytes) {}
  ~PagePool();
  size_t page_bytes() const { return page_bytes_; }
  int64_t bytes_in_use() const { return pages_ * static_cast<int64_t>(page_bytes_); }
  Page* acquire();
  void release(Page* page);

 private:
  const size_t page_bytes_;
  std::mutex mutex_;
  std::vector<Page*> spare_;
  std::atomic<int64_t> pages_{0};  // allocated, spare ones included
};

class Sequence {
 public:
  explicit Sequence(std::shared_ptr<PagePool> pool) : pool_(std::move(pool)) {}
  ~Sequence() { truncate(0); }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  int64_t length() const { return static_cast<int64_t>(ids_.size()); }
  const std::vector<int32_t>& ids() const { return ids_; }
  std::unique_ptr<Sequence> fork() const;
  void truncate(int64_t length);

  // Makes room for `count` tokens after the present ones: new pages, and a copy of the last page when it is shared.
  void reserve(int64_t count);
  void append(const int32_t* ids, int64_t count) { ids_.insert(ids_.end(), ids, ids + count); }
  const std::vector<const void*>& pages() const { return page_data_; }
  void* page(int64_t index) { return pages_[index]->data.as<void>(); }

 private:
  void drop_page();

  std::shared_ptr<PagePool> pool_;
  std::vector<int32_t> ids_;             // the smear of the next token needs the last one
  std::vector<Page*> pages_;
  std::vector<const void*> page_data_;   // pages_[i]->data
};

}  // namespace nanochat
