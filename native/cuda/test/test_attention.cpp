// attention_decode and attention_prefill. Every cache cell outside of what a query may see is NaN.
#include <algorithm>

#include "cuda/reference.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

// A row with `count` new tokens after `start` cached ones.
struct NewTokens {
  int start, count;
};

template <class T> struct Case {
  Case(int D, int H, int K, int window, const std::vector<NewTokens>& chunks, int most = kTileQueries)
      : D(D), Dp(padded_head_dim(D)), H(H), K(K), window(window), most(most), chunks(chunks) {
    std::vector<Token> list;
    for (size_t r = 0; r < chunks.size(); r++) {
      const NewTokens& chunk = chunks[r];
      const int length = chunk.start + chunk.count, seen_from = first_visible(chunk.start, window);
      const int64_t capacity = length + 3;
      slots.push_back(std::make_unique<Array<T>>(static_cast<size_t>(2 * 2 * K * capacity * Dp)));
      const Row row{slots[r]->at(Side::host), capacity};
      for (int value = 0; value < 2; value++) {
        for (int h = 0; h < K; h++) {
          T* cells = head_cache<T>(row, 1, value, K, h, Dp);
          for (int key = seen_from; key < length; key++) {
            const std::vector<T> cell = padded_noise<T>(1, D, Dp);
            std::copy(cell.begin(), cell.end(), cells + static_cast<int64_t>(key) * Dp);
          }
        }
      }
      slots[r]->upload();
      host_rows.push_back(row);
      device_rows.push_back({slots[r]->at(Side::device), capacity});
      for (int t = 0; t < chunk.count; t += most) {
        tiles.push_back({static_cast<int>(r), static_cast<int>(list.size()) + t, std::min(most, chunk.count - t), chunk.start + t});
      }
      ends.push_back(length);
      for (int t = 0; t < chunk.count; t++) list.push_back({0, -1, chunk.start + t, static_cast<int>(r)});
    }
    T_ = static_cast<int64_t>(list.size());
    tokens = std::make_unique<Array<Token>>(list);
    rows = std::make_unique<Array<Row>>(device_rows);
    q = std::make_unique<Array<T>>(padded_noise<T>(T_ * H, D, Dp, 1.5f));
    y = std::make_unique<Array<T>>(static_cast<size_t>(T_ * y_stride()));
    partial = Memory(stream, static_cast<size_t>(T_ * H * kMaxSplits * Dp) * sizeof(float));
    weights = Memory(stream, static_cast<size_t>(T_ * H * kMaxSplits * 2) * sizeof(float));
    arrived = std::make_unique<Array<uint32_t>>(std::vector<uint32_t>(static_cast<size_t>(T_ * H), 0));
  }

  int64_t y_stride() const { return pad_to(H * D, kRowUnit); }

  Attention<T> args(Side s) {
    return {tokens->at(s), s == Side::host ? host_rows.data() : rows->at(s), q->at(s), H, K, D, Dp, 1, window, 1 / std::sqrt(static_cast<float>(D)),
            partial.as<float>(), weights.as<float>(), arrived->at(s), y->at(s), y_stride()};
  }

  void expect_reference(double tolerance, const char* name) {
    reference::attention(args(Side::host), T_);
    std::vector<float> got, expected;
    const std::vector<float> raw = y->read(), raw_expected = y->expected();
    for (int64_t t = 0; t < T_; t++) {
      for (int64_t i = 0; i < H * D; i++) {
        got.push_back(raw[static_cast<size_t>(t * y_stride() + i)]);
        expected.push_back(raw_expected[static_cast<size_t>(t * y_stride() + i)]);
      }
      for (int64_t i = H * D; i < y_stride(); i++) expect(std::isnan(raw[static_cast<size_t>(t * y_stride() + i)]), std::string(name) + " writes beyond its heads");
    }
    expect_near(got, expected, tolerance, std::string(name) + " " + type_name<T>() + " D " + std::to_string(D) + " H " + std::to_string(H) + " K " + std::to_string(K) + " window " +
                std::to_string(window) + " from " + std::to_string(chunks[0].start) + "+" + std::to_string(chunks[0].count));
  }

  void check_decode() {
    attention_decode(*stream, args(Side::device), T_, kMaxSplits);
    expect_reference(sizeof(T) == 2 ? 3e-3 : 2e-6, "attention_decode");
  }

  int D, Dp, H, K, window, most;
  std::vector<NewTokens> chunks;
  int64_t T_ = 0;
  std::vector<std::unique_ptr<Array<T>>> slots;
  std::vector<Row> host_rows, device_rows;
  std::vector<int64_t> ends;
  std::vector<QueryTile> tiles;
  std::unique_ptr<Array<Token>> tokens;
  std::unique_ptr<Array<Row>> rows;
  std::unique_ptr<Array<T>> q, y;
  Memory partial, weights;
  std::unique_ptr<Array<uint32_t>> arrived;
};

void run_prefill(Case<bf16>& c) {
  Array<QueryTile> tiles(c.tiles);
  std::vector<TensorMap> list(1 + c.chunks.size());
  const bool takes_maps = prefill_takes_maps(*stream, c.D);
  if (takes_maps) prefill_maps(*stream, c.q->at(Side::device), c.T_, c.H, 2 * 2 * c.K, c.device_rows, c.ends, list.data());
  Array<TensorMap> maps(list);
  attention_prefill(*stream, {c.args(Side::device), tiles.at(Side::device), c.most, takes_maps ? maps.at(Side::device) : nullptr}, static_cast<int64_t>(c.tiles.size()));
}

void check_prefill(int D, int H, int K, int window, const std::vector<NewTokens>& chunks, int most = kTileQueries) {
  Case<bf16> c(D, H, K, window, chunks, most);
  run_prefill(c);
  c.expect_reference(5e-3, "attention_prefill");
}

// The same queries through the other kernel.
void check_prefill_equals_decode(int D) {
  Case<bf16> c(D, 2, 1, 100, {{70, 90}});
  run_prefill(c);
  const std::vector<float> prefill = c.y->read();
  attention_decode(*stream, c.args(Side::device), c.T_, kMaxSplits);
  expect_near(prefill, c.y->read(), 5e-3, "attention_prefill = attention_decode");
}

// A row's result is the same bits in a batch and alone, because its splits are.
void check_batch_independence() {
  Case<bf16> c(32, 2, 2, -1, {{900, 1}, {3, 1}, {2500, 1}});
  attention_decode(*stream, c.args(Side::device), 3, kMaxSplits);  // long runs of splits: few processors, or many
  const std::vector<float> all = c.y->read();
  attention_decode(*stream, c.args(Side::device), 1, most_splits(901));
  const std::vector<float> alone = c.y->read();
  expect(std::memcmp(all.data(), alone.data(), static_cast<size_t>(c.y_stride()) * sizeof(float)) == 0, "a row in a batch = the row alone, bit for bit");
}

// attention_append = append_kv, then attention_decode: the same bits in y and in every cell.
template <class T> void check_append(int D, int H, int K, int window, bool embeds, const std::vector<NewTokens>& chunks) {
  Case<T> c(D, H, K, window, chunks);
  const int V = 7, g = 12;
  const int64_t T_ = c.T_, n_stride = 64;
  Array<float> qkv(noise<float>(static_cast<size_t>(T_ * (H + 2 * K) * D))), cos(noise<float>(static_cast<size_t>(T_ * D / 2))), sin(noise<float>(static_cast<size_t>(T_ * D / 2)));
  Array<float> gate(noise<float>(static_cast<size_t>(K * g)));
  Array<T> embeddings(noise<T>(static_cast<size_t>(V * K * D))), n(padded_noise<T>(T_, 40, n_stride));
  const Side s = Side::device;
  const AppendKv<T> append{c.tokens->at(s), c.rows->at(s), qkv.at(s), cos.at(s), sin.at(s), H, K, D, c.Dp, 1, 0x1p-23f, 1.2f, c.q->at(s), embeds ? embeddings.at(s) : nullptr,
                           sizeof(T) == 2, gate.at(s), g, 3, n.at(s), n_stride};
  append_kv(*stream, append, T_);
  attention_decode(*stream, c.args(s), T_, kMaxSplits);
  std::vector<std::vector<T>> left = {c.y->read_raw()};
  for (auto& slot : c.slots) {
    left.push_back(slot->read_raw());
    slot->upload();
  }
  c.y->upload();
  c.q->upload();
  attention_append(*stream, c.args(s), append, T_, kMaxSplits);
  std::vector<std::vector<T>> got = {c.y->read_raw()};
  for (auto& slot : c.slots) got.push_back(slot->read_raw());
  const std::string what = std::string("attention_append ") + type_name<T>() + " D " + std::to_string(D) + " H " + std::to_string(H) + " K " + std::to_string(K) + " window " + std::to_string(window);
  for (size_t i = 0; i < got.size(); i++) expect(std::memcmp(got[i].data(), left[i].data(), got[i].size() * sizeof(T)) == 0, what + (i == 0 ? ": y" : ": the cache"));
  expect_status(nullptr, what);
}

template <class T> void check_appends() {
  int i = 0;
  for (int position : {0, 1, 63, 64, 200, 2048}) {
    const int D = (const int[]){16, 30, 64, 80, 128}[i % 5], K = 1 + i % 2;
    check_append<T>(D, K * (1 + i % 3), K, i % 2 ? -1 : 100, i % 3 != 0, {{position, 1}, {position / 2, 1}});
    i++;
  }
}

template <class T> void check_decode_shapes() {
  const int positions[] = {0, 1, 2, 15, 63, 64, 127, 128, 129, 255, 256, 600, 2047, 2048, 2049, 2200};
  int i = 0;
  for (int position : positions) {
    const int D = (const int[]){16, 30, 64, 80, 128}[i % 5], K = 1 + i % 2;
    for (int window : {-1, position / 2, 64}) Case<T>(D, K * (1 + i % 3), K, window, {{position, 1}}).check_decode();
    i++;
  }
  Case<T>(64, 4, 2, 130, {{0, 1}, {129, 1}, {130, 1}, {131, 1}, {700, 3}, {0, 6}}).check_decode();
  for (int splits = 1; splits <= kMaxSplits; splits++) Case<T>(32, 1, 1, -1, {{splits * kLeastSplit - 1, 1}}).check_decode();
}

// Blocks of 128 keys, several tiles and heads in turn by one block of the grid.
void check_hopper_shapes(int most) {
  int i = 0;
  for (int count : {1, 63, 64, 65, 127, 128, 129, 290}) {
    for (int start : {0, 1, 127, 128, 300}) {
      const int D = (const int[]){128, 120, 72}[i % 3], K = 1 + i % 2;
      for (int window : {-1, 0, 40, 127, 128, 200, count + start - 1}) check_prefill(D, K * (1 + i % 3), K, window, {{start, count}}, most);
      i++;
    }
  }
  check_prefill(128, 4, 2, 130, {{0, 300}, {333, 6}, {64, 128}, {5, 1}, {0, 129}, {700, 500}}, most);
  check_prefill(128, 3, 1, -1, {{0, 1500}, {100, 400}, {0, 7}}, most);
  check_prefill(128, 12, 3, 30, {{1000, 2000}}, most);
}

}  // namespace

void test_attention() {
  check_decode_shapes<float>();
  check_decode_shapes<bf16>();
  check_appends<float>();
  check_appends<bf16>();
  int i = 0;
  for (int count : {1, 5, 16, 63, 64, 65, 130}) {
    for (int start : {0, 1, 63, 100}) {
      const int D = (const int[]){16, 30, 64, 80, 128}[i % 5], K = 1 + i % 2;
      for (int window : {-1, 0, 40, count + start - 1, count + start}) check_prefill(D, K * (1 + i % 3), K, window, {{start, count}});
      i++;
    }
  }
  if (stream->is_hopper()) {
    for (int most : {kTileQueries, kHopperTileQueries}) check_hopper_shapes(most);
  }
  check_prefill(64, 2, 1, 70, {{0, 100}, {333, 6}, {64, 64}, {5, 1}});
  check_prefill_equals_decode(64);
  check_prefill_equals_decode(128);
  check_batch_independence();
}

}  // namespace cuda
}  // namespace nanochat
