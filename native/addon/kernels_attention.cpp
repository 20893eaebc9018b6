#include <algorithm>
#include <cstring>
#include <vector>

#include "addon/arguments.h"
#include "addon/kernels.h"
#include "cpu/buffer.h"

namespace nanochat {

namespace {

constexpr int kMostPositions = 10 << 24;
constexpr int kMostHeads = 4096;

// Where the keys and values (K, D) of positions first_key.. lie in pages of one layer.
template <class T> struct CacheLayout {
  int K, D;
  int64_t first_key;
  int64_t key_elements() const { return static_cast<int64_t>(D) * kPage; }
  int64_t head_elements() const { return key_elements() + static_cast<int64_t>(value_dim(D)) * kPage; }
  int64_t page_elements() const { return K * head_elements(); }
  int64_t first_page() const { return first_key / kPage; }
  int64_t end_page(int64_t keys) const { return pages_of(first_key + keys); }

  // k, v (keys, K, D) into pages, the first of which is first_page()
  void append(const Kernels& kernels, const float* k, const float* v, int64_t keys, T* pages) const {
    for (int64_t i = 0; i < keys * K; i++) {
      const int64_t position = first_key + i / K;
      T* head = pages + (position / kPage - first_page()) * page_elements() + i % K * head_elements();
      kernels.of<T>().append_kv(k + i * D, v + i * D, D, static_cast<int>(position % kPage), head, head + key_elements());
    }
  }
};

template <class T> std::vector<float> to_floats(const T* x, int64_t count) {
  std::vector<float> floats(static_cast<size_t>(count));
  std::transform(x, x + count, floats.begin(), [](T element) { return to_float(element); });
  return floats;
}

struct AttentionShape {
  int H, K, D;
  int64_t queries, keys, first_position, first_key, window;
  float scale;
  int64_t first_seen(int64_t position) const { return window < 0 ? 0 : std::max<int64_t>(0, position - window); }
};

template <class T> Napi::Value flash_attention_of(Arguments& args, const Kernels& kernels, int64_t repeat, const AttentionShape& s) {
  const int64_t q_stride = static_cast<int64_t>(s.H) * s.D, kv_elements = s.keys * s.K * s.D;
  const T* q = args.array<T>("q", s.queries * q_stride);
  const T* k = args.array<T>("k", kv_elements);
  const T* v = args.array<T>("v", kv_elements);
  T* out = args.array<T>("out", s.queries * q_stride);

  const CacheLayout<T> layout{s.K, s.D, s.first_key};
  Buffer cache(static_cast<size_t>((layout.end_page(s.keys) - layout.first_page()) * layout.page_elements()) * sizeof(T));
  std::memset(cache.template as<void>(), 0xff, cache.bytes());  // note: NaN, so that reading a slot that holds nothing shows
  if (s.first_key % 2 == 1) {  // note: in a cache the key before is there; a pair that is partly seen must be finite
    const std::vector<float> zeros(static_cast<size_t>(s.K) * s.D, 0.0f);
    CacheLayout<T>{s.K, s.D, s.first_key - 1}.append(kernels, zeros.data(), zeros.data(), 1, cache.template as<T>());
  }
  layout.append(kernels, to_floats(k, kv_elements).data(), to_floats(v, kv_elements).data(), s.keys, cache.template as<T>());
  std::vector<const void*> pages(static_cast<size_t>(layout.end_page(s.keys)), nullptr);
  for (int64_t p = layout.first_page(); p < layout.end_page(s.keys); p++) pages[static_cast<size_t>(p)] = cache.template as<T>() + (p - layout.first_page()) * layout.page_elements();

  const int group = s.H / s.K;
  const auto tile = [&](int64_t query, int head, int rows, bool over_heads) {
    AttentionRow seen[kAttentionRows];
    for (int r = 0; r < rows; r++) {
      const int64_t position = s.first_position + query + (over_heads ? 0 : r);
      seen[r] = {s.first_seen(position), position};
    }
    const int64_t at = query * q_stride + static_cast<int64_t>(head) * s.D, stride = over_heads ? s.D : q_stride, k_offset = head / group * layout.head_elements();
    const void* first = static_cast<const T*>(pages[static_cast<size_t>(layout.first_page())]) + (k_offset + layout.head_elements()) % layout.page_elements();
    kernels.of<T>().attention_tile({q + at, stride, out + at, stride, seen, rows, s.D, s.scale, pages.data(), k_offset, k_offset + layout.key_elements(), first});
  };
  return timed(args.env(), repeat, [&] {
    // as in the forward pass: one query shares a kv head's keys among the heads of its group, several share them per head
    for (int h = 0; h < s.H && s.queries == 1; h += group) {
      for (int g = 0; g < group; g += kAttentionRows) tile(0, h + g, std::min(kAttentionRows, group - g), true);
    }
    for (int h = 0; h < s.H && s.queries > 1; h++) {
      for (int64_t t = 0; t < s.queries; t += kAttentionRows) tile(t, h, static_cast<int>(std::min<int64_t>(kAttentionRows, s.queries - t)), false);
    }
  });
}

template <class T> Napi::Value append_kv_cache_of(Arguments& args, const Kernels& kernels, int64_t repeat, const CacheLayout<T>& layout, int64_t keys) {
  const float* k = args.array<float>("k", keys * layout.K * layout.D);
  const float* v = args.array<float>("v", keys * layout.K * layout.D);
  T* pages = args.array<T>("pages", layout.end_page(keys) * layout.page_elements());
  return timed(args.env(), repeat, [&] { layout.append(kernels, k, v, keys, pages); });
}

}  // namespace

Napi::Value flash_attention(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat();
  AttentionShape s;
  s.H = args.integer("heads", 1, kMostHeads);
  s.K = args.integer("kvHeads", 1, kMostHeads);
  s.D = args.head_dim();
  s.queries = args.integer("queries", 1, kMostPositions);
  s.keys = args.integer("keys", 1, kMostPositions);
  s.first_position = args.integer("firstPosition", 0, kMostPositions);
  s.first_key = args.integer("firstKey", 0, kMostPositions);
  s.window = args.integer("window", -1, INT32_MAX);
  s.scale = args.number("scale");
  if (s.H % s.K != 0) args.invalid("Expected heads to be a multiple of kvHeads.");
  const int64_t end_key = s.first_key + s.keys;
  if (end_key > kMostPositions || s.first_position + s.queries > end_key || s.first_seen(s.first_position) < s.first_key) {
    args.invalid("Expected keys for every position that a query sees.");
  }
  return with_type_of(args.at(11), [&](auto element) { return flash_attention_of<decltype(element)>(args, kernels, repeat, s); });
}

Napi::Value append_kv_cache(const Napi::CallbackInfo& info) {
  Arguments args(info);
  const Kernels& kernels = args.kernels();
  const int64_t repeat = args.repeat(), keys = args.integer("keys", 1, kMostPositions);
  const int K = args.integer("kvHeads", 1, kMostHeads), D = args.head_dim(), first_slot = args.integer("firstSlot", 0, kPage - 1);
  return with_type_of(args.at(8), [&](auto element) {
    using T = decltype(element);
    return append_kv_cache_of<T>(args, kernels, repeat, CacheLayout<T>{K, D, first_slot}, keys);
  });
}

}  // namespace nanochat
