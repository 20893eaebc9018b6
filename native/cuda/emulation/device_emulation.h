// The device primitives on the CPU, with the semantics that PTX gives them.
#pragma once
#include <cmath>
#include <cstring>

#include "cuda/emulation/block.h"
#include "model/bf16.h"

#define NC_DEVICE inline
#define NC_KERNEL(threads) void
#define NC_HALF_KERNEL(threads) void
#define NC_UNROLL
#define NC_UNROLL_BY_4
#define NC_NO_UNROLL

namespace nanochat {
namespace cuda {

constexpr int kCompiledFor = 900;

inline int thread() { return emulation::current->index; }
inline int threads() { return emulation::block_threads; }
inline int lane() { return emulation::current->lane; }
inline int warp() { return emulation::current->index / emulation::kLanes; }
inline int block_x() { return emulation::block.x; }
inline int block_y() { return emulation::block.y; }
inline int block_z() { return emulation::block.z; }
inline int blocks_x() { return emulation::grid.x; }
inline void* shared_memory() { return emulation::shared; }

inline void sync_block() { emulation::sync_block(); }

template <class V> V shuffle(V v, int from) {
  static_assert(sizeof(V) == sizeof(uint32_t), "one word");
  uint32_t mine;
  std::memcpy(&mine, &v, sizeof v);
  std::memcpy(&v, &emulation::exchange_word(emulation::Operation::shuffle, mine)[from % emulation::kLanes], sizeof v);
  return v;
}
template <class V> V shuffle_xor(V v, int mask) { return shuffle(v, lane() ^ mask); }

inline bool any(bool v) {
  const uint32_t* all = emulation::exchange_word(emulation::Operation::any, v);
  for (int l = 0; l < emulation::kLanes; l++) if (all[l]) return true;
  return false;
}

inline uint32_t add_shared(uint32_t* to, uint32_t v) {
  emulation::expect_shared(to, sizeof *to, sizeof *to);
  const uint32_t before = *to;
  *to += v;
  return before;
}

inline uint32_t add_global(uint32_t* to, uint32_t v) {
  const uint32_t before = *to;
  *to += v;
  return before;
}
inline void publish() {}
inline void prefetch(const void*) {}
inline uint32_t grid_turn(const uint32_t* arrived) { return *arrived & kGridTurn; }
inline void sync_grid(uint32_t* arrived, uint32_t* turn) {
  sync_block();
  if (thread() == 0) {
    *arrived += grid_arrival(block_x(), blocks_x());
    while ((*arrived & kGridTurn) == *turn) emulation::pause();
  }
  *turn ^= kGridTurn;
  sync_block();
}
inline void wait_for_previous() {}
inline void start_next() {}

inline void copy_async(void* shared, const void* global, bool valid) { emulation::copy_async(shared, global, valid); }
inline void commit_copies() { emulation::commit_copies(); }
template <int kPending> void wait_copies() { emulation::wait_copies(kPending); }

// Matrix i of four has its row r where lane 8 i + r points; lane l receives of each the two elements 2 (l % 4) of row l / 4.
inline void load_matrices(uint32_t (&r)[4], const void* row) {
  emulation::expect_shared(row, 16, 16);
  emulation::Shown mine = {};
  mine.address = row;
  const emulation::Shown* all = emulation::exchange(emulation::Operation::load_matrices, mine);
  for (int i = 0; i < 4; i++) std::memcpy(&r[i], static_cast<const char*>(all[8 * i + lane() / 4].address) + 4 * (lane() % 4), 4);
}

// The same of each matrix's transpose.
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  emulation::expect_shared(row, 16, 16);
  emulation::Shown mine = {};
  mine.address = row;
  const emulation::Shown* all = emulation::exchange(emulation::Operation::load_matrices, mine);
  for (int i = 0; i < 4; i++) {
    uint16_t pair[2];
    for (int e = 0; e < 2; e++) std::memcpy(&pair[e], static_cast<const char*>(all[8 * i + 2 * (lane() % 4) + e].address) + 2 * (lane() / 4), 2);
    std::memcpy(&r[i], pair, 4);
  }
}

inline float half_of(uint32_t pair, int high) { return to_float(bf16{static_cast<uint16_t>(high ? pair >> 16 : pair)}); }

// Fragments of m16n8k16: with g = lane / 4 and i = 2 (lane % 4), a holds rows g and g + 8 at k = i and i + 8 (two elements
// each), b holds column g at k = i and i + 8, c holds rows g and g + 8 at columns i and i + 1.
inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const emulation::Shown* all = emulation::exchange(emulation::Operation::mma, {{a[0], a[1], a[2], a[3], b0, b1}, nullptr});
  const int g = lane() / 4, pair = lane() % 4;
  for (int e = 0; e < 4; e++) {
    const int row_word = e / 2, column = 2 * pair + e % 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      const int from = k % 8 / 2, half = k / 8;
      sum += half_of(all[4 * g + from].word[row_word + 2 * half], k % 2) * half_of(all[4 * column + from].word[4 + half], k % 2);
    }
    c[e] += sum;
  }
}

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float widen(bf16 x) { return to_float(x); }
inline bf16 round_bf16(float x) { return to_bf16(x); }
inline uint32_t pack_bf16(float low, float high) { return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

}  // namespace cuda
}  // namespace nanochat
