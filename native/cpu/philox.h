// Philox4x32-10 (Salmon et al. 2011), the random words of MODEL.md 5; lib/philox.ts is its twin.
#pragma once
#include <cstdint>

namespace nanochat {

constexpr int kPhiloxBlocks = 16;  // neighbouring blocks that one call computes: enough to fill any vector

// out: (kPhiloxBlocks, 4), the words of the counters (c0 + i, c1, c2, 0) under the key (k0, k1). Four blocks at a time stay in
// registers: 63 ns for all of them on a Zen 5, and twice that eight or sixteen at a time.
inline void philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t* out) {
  for (uint32_t block = 0; block < kPhiloxBlocks; block += 4) {
    uint32_t w0[4], w1[4], w2[4], w3[4], round_k0 = k0, round_k1 = k1;
    for (uint32_t i = 0; i < 4; i++) {
      w0[i] = c0 + block + i;
      w1[i] = c1;
      w2[i] = c2;
      w3[i] = 0;
    }
    for (int round = 0; round < 10; round++) {
      for (int i = 0; i < 4; i++) {
        const uint64_t a = uint64_t{w0[i]} * 0xd2511f53u, b = uint64_t{w2[i]} * 0xcd9e8d57u;
        w0[i] = static_cast<uint32_t>(b >> 32) ^ w1[i] ^ round_k0;
        w1[i] = static_cast<uint32_t>(b);
        w2[i] = static_cast<uint32_t>(a >> 32) ^ w3[i] ^ round_k1;
        w3[i] = static_cast<uint32_t>(a);
      }
      round_k0 += 0x9e3779b9u;
      round_k1 += 0xbb67ae85u;
    }
    for (int i = 0; i < 4; i++) {
      uint32_t* words = out + 4 * (block + i);
      words[0] = w0[i];
      words[1] = w1[i];
      words[2] = w2[i];
      words[3] = w3[i];
    }
  }
}

}  // namespace nanochat
