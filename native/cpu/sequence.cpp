#include "cpu/sequence.h"

#include <cstring>

#include "cpu/kernels.h"

namespace nanochat {

namespace {
constexpr size_t kSpareBytes = 64u << 20;
}

PagePool::~PagePool() {
  for (Page* page : spare_) delete page;
}

Page* PagePool::acquire() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!spare_.empty()) {
      Page* page = spare_.back();
      spare_.pop_back();
      page->owners = 1;
      return page;
    }
  }
  Page* page = new Page(page_bytes_);
  pages_++;
  return page;
}

void PagePool::release(Page* page) {
  if (--page->owners > 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if ((spare_.size() + 1) * page_bytes_ <= kSpareBytes) {
    spare_.push_back(page);
  } else {
    delete page;
    pages_--;
  }
}

std::unique_ptr<Sequence> Sequence::fork() const {
  auto copy = std::make_unique<Sequence>(pool_);
  copy->ids_ = ids_;
  copy->page_data_ = page_data_;
  copy->pages_ = pages_;  // last of what may throw: the copy gives back the pages it has
  for (Page* page : pages_) page->owners++;
  return copy;
}

void Sequence::drop_page() {
  pool_->release(pages_.back());
  pages_.pop_back();
  page_data_.pop_back();
}

void Sequence::truncate(int64_t length) {
  if (length < this->length()) ids_.resize(length);
  const size_t needed = static_cast<size_t>(pages_of(length));
  while (pages_.size() > needed) drop_page();
}

void Sequence::reserve(int64_t count) {
  if (ids_.capacity() < ids_.size() + static_cast<size_t>(count)) ids_.reserve(2 * ids_.size() + static_cast<size_t>(count));
  const int64_t used = length() % kPage;
  if (count > 0 && used > 0 && pages_.back()->owners > 1) {
    Page* own = pool_->acquire();
    std::memcpy(own->data.as<void>(), pages_.back()->data.as<void>(), pool_->page_bytes());
    drop_page();
    pages_.push_back(own);
    page_data_.push_back(own->data.as<void>());
  }
  const size_t needed = static_cast<size_t>(pages_of(length() + count));
  while (pages_.size() < needed) {
    pages_.reserve(needed);
    page_data_.reserve(needed);
    pages_.push_back(pool_->acquire());
    page_data_.push_back(pages_.back()->data.as<void>());
  }
}

}  // namespace nanochat
