// The emulation finds what it is there to find: every mistake below must be reported, or must show in some order.
#include "cuda/device.h"
#include "cuda/test/check.h"

namespace nanochat {
namespace cuda {

namespace {

struct Values {
  float* out;
  const float* in;
};

// Each thread reads what the thread opposite wrote, with or without a barrier in between.
template <bool kSyncs> NC_KERNEL(64) reverse(Values a) {
  float* shared = static_cast<float*>(shared_memory());
  shared[thread()] = a.in[thread()];
  if (kSyncs) sync_block();
  a.out[thread()] = shared[63 - thread()];
}

NC_KERNEL(64) half_sync(Values) {
  if (thread() < 32) sync_block();
  if (thread() == 40) any(true);
}

NC_KERNEL(64) forgotten_wait(Values a) {
  if (thread() == 0) copy_async(shared_memory(), a.in, true);
  commit_copies();
}

NC_KERNEL(64) early_read(Values a) {
  float* shared = static_cast<float*>(shared_memory());
  copy_async(shared + 4 * thread(), a.in + 4 * (thread() % 16), true);
  commit_copies();
  a.out[thread()] = shared[4 * thread()];
  wait_copies<0>();
}

NC_KERNEL(64) misaligned_copy(Values a) {
  copy_async(static_cast<float*>(shared_memory()) + 1, a.in, true);
  wait_copies<0>();
}

NC_KERNEL(64) outside_copy(Values a) {
  copy_async(static_cast<float*>(shared_memory()) + 4 * thread() + 64, a.in, true);
  commit_copies();
  wait_copies<0>();
}

// Every block writes its number to the same place and reads it again.
NC_KERNEL(64) share_place(Values a) {
  a.out[63] = static_cast<float>(block_x());
  sync_block();
  if (a.out[63] != static_cast<float>(block_x())) a.out[0] = 1;
}

struct Ring {
  float* out;         // (blocks)
  uint32_t* arrived;  // of sync_grid
  int rounds;
};

// Every block takes what the next one has, again and again, with or without the second of two barriers.
template <bool kSyncs> NC_KERNEL(64) pass_on(Ring a) {
  uint32_t turn = grid_turn(a.arrived);
  for (int i = 0; i < a.rounds; i++) {
    const float next = a.out[(block_x() + 1) % blocks_x()];
    sync_grid(a.arrived, &turn);
    if (thread() == 0) a.out[block_x()] = next;
    if (kSyncs) sync_grid(a.arrived, &turn);
  }
  sync_grid(a.arrived, &turn);  // an odd number of them
}

NC_KERNEL(32) different_operations(Values) {
  if (thread() < 16) any(true);
  else shuffle(1.0f, 0);
}

std::vector<float> run(void (*kernel)(Values), int threads, size_t shared_bytes, const char* problem, const char* what) {
  Array<float> in(noise<float>(64)), out(64);
  launch(*stream, what, kernel, {}, threads, shared_bytes, Values{out.at(Side::device), in.at(Side::device)});
  expect_status(problem, what);
  std::vector<float> reversed = in.expected();
  std::vector<float> got = out.read();
  for (size_t i = 0; i < 64; i++) got[i] -= reversed[63 - i];
  return got;
}

bool all_zero(const std::vector<float>& values) {
  for (float v : values) if (!(v == 0)) return false;
  return true;
}

// Whether all values got as far as they should, on `blocks` processors.
bool goes_round(void (*kernel)(Ring), int blocks, LaunchKind kind, const char* problem) {
  constexpr int kRounds = 3;
  Array<float> out(noise<float>(static_cast<size_t>(blocks)));
  Array<uint32_t> arrived(std::vector<uint32_t>{0});
  std::vector<float> expected = out.expected();
  for (int launches = 0; launches < 2; launches++) {  // the second begins where the first left the counter
    launch(*stream, "pass_on", kernel, {blocks}, 64, 0, Ring{out.at(Side::device), arrived.at(Side::device), kRounds}, kind);
    expect_status(problem, "pass_on");
  }
  const std::vector<float> got = out.read();
  for (size_t b = 0; b < got.size(); b++) if (got[b] != expected[(b + 2 * kRounds) % got.size()]) return false;
  return arrived.read_raw()[0] % kGridTurn == 0;
}

}  // namespace

bool blocks_meet() {
  Array<float> in(noise<float>(64)), out(std::vector<float>(64, 0));
  launch(*stream, "blocks that share a place", share_place, {40}, 64, 0, Values{out.at(Side::device), in.at(Side::device)});
  expect_status(nullptr, "blocks that share a place");
  return out.read()[0] == 1;
}

void test_emulation() {
  bool shows = false;
  for (const auto order : {emulation::Order::ascending, emulation::Order::descending, emulation::Order::random}) {
    emulation::set_order(order);
    expect(all_zero(run(reverse<true>, 64, 256, nullptr, "with a barrier")), "a barrier makes writes visible");
    shows = shows || !all_zero(run(reverse<false>, 64, 256, nullptr, "without a barrier"));
    run(half_sync, 64, 256, "deadlock", "a barrier that half of the block reaches");
    run(forgotten_wait, 64, 256, "never waited", "a copy that is not waited for");
    const std::vector<float> early = run(early_read, 64, 1024, nullptr, "a copy that is read early");
    const bool lands_late = order != emulation::Order::descending;
    expect(std::isnan(early[0]) == lands_late && std::isnan(early[63]) == lands_late, "a copy lands at its wait, or at once");
    run(misaligned_copy, 64, 256, "misaligned", "a misaligned copy");
    run(outside_copy, 64, 256, "outside", "a copy out of shared memory");
    expect(blocks_meet() == (order == emulation::Order::random), "blocks run side by side in random order");
    for (int blocks : {1, 2, 7, 40}) expect(goes_round(pass_on<true>, blocks, LaunchKind::cooperative, nullptr), "a barrier of the grid");
    expect(!goes_round(pass_on<false>, 40, LaunchKind::cooperative, nullptr), "a missing barrier of the grid shows");
    goes_round(pass_on<true>, 40, LaunchKind::plain, "deadlock");
    goes_round(pass_on<true>, 41, LaunchKind::cooperative, "more blocks together than fit");
    run(different_operations, 32, 0, "different warp operations", "lanes at different operations");
  }
  expect(shows, "a missing barrier shows in one of the orders");
  emulation::set_order(emulation::Order::ascending);
}

}  // namespace cuda
}  // namespace nanochat
