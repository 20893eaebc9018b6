// The pool, the passes and decoding, driven as the addon's runner drives them: one thread per model works off a queue, another
// cancels and asks for sizes. For ThreadSanitizer, and for the leak check of AddressSanitizer, which node cannot have.
//   threads ROUNDS
// Says how many jobs ended how; 1 when a result is not the one of the first round.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/decode.h"
#include "cpu/forward.h"
#include "cpu/thread_pool.h"
#include "model/tensor_source.h"

using namespace nanochat;

namespace {

constexpr int kVocab = 320, kRows = 3;

struct Job {
  std::atomic<bool> cancelled{false};
  std::function<Status(const std::atomic<bool>&)> work;
  Status status;
  bool is_done = false;  // under the queue's mutex
};

// As addon/runner.h, without JavaScript.
class Queue {
 public:
  Queue() : thread_([this] { loop(); }) {}
  ~Queue() {
    { std::lock_guard<std::mutex> lock(mutex_); stop_ = true; }
    news_.notify_all();
    thread_.join();
  }

  std::shared_ptr<Job> enqueue(std::function<Status(const std::atomic<bool>&)> work) {
    auto job = std::make_shared<Job>();
    job->work = std::move(work);
    { std::lock_guard<std::mutex> lock(mutex_); jobs_.push_back(job); }
    news_.notify_all();
    return job;
  }

  Status wait(const std::shared_ptr<Job>& job) {
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [&] { return job->is_done; });
    return job->status;
  }

 private:
  void loop() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        news_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        job = jobs_.front();
        jobs_.pop_front();
      }
      job->status = job->work(job->cancelled);
      { std::lock_guard<std::mutex> lock(mutex_); job->is_done = true; }
      ended_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable news_, ended_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stop_ = false;
  std::thread thread_;
};

ModelConfig config() {
  ModelSpec spec;
  spec.generation = Generation::G6;
  spec.sequence_len = 128;
  spec.vocab_size = kVocab;
  spec.n_layer = 3;
  spec.n_head = 4;
  spec.n_kv_head = 2;
  spec.n_embd = 128;
  spec.window_pattern = "SL";
  ModelConfig config;
  if (!make_config(spec, &config).ok()) std::abort();
  return config;
}

std::atomic<int> done{0}, aborted{0}, wrong{0};

Status counted(const Status& status) {
  if (status.ok()) done++;
  else if (std::strcmp(status.code, "ERR_ABORTED") == 0) aborted++;
  else wrong++;
  return status;
}

// A model's life: load, passes and decodings of rows that share pages, some of them cancelled at any moment.
void live(int round, ComputeType type, int threads, std::vector<int32_t>* first_ids) {
  Queue queue;
  auto pool = std::make_unique<ThreadPool>(threads);
  std::unique_ptr<CpuModel> model;
  const auto load = [&](const std::atomic<bool>& cancelled) {
    const LoadContext context{pool.get(), &cancelled, [](int64_t, int64_t) {}};
    return load_cpu_model(config(), type, *TensorSource::seeded(1), find_kernels(nullptr), context, &model);
  };
  const auto early = queue.enqueue(load);
  early->cancelled = true;
  counted(queue.wait(early));
  model.reset();
  if (!counted(queue.wait(queue.enqueue(load))).ok()) return;

  std::vector<int32_t> prompt(70);
  for (size_t i = 0; i < prompt.size(); i++) prompt[i] = static_cast<int32_t>(i * 7 % kVocab);
  std::vector<float> logits(kRows * kVocab), scratch;
  std::vector<std::unique_ptr<Sequence>> rows;
  rows.push_back(std::make_unique<Sequence>(model->page_pool()));
  counted(queue.wait(queue.enqueue([&](const std::atomic<bool>& cancelled) {
    return model->forward({{rows[0].get(), prompt.data(), static_cast<int64_t>(prompt.size()), WantedLogits::last}}, logits.data(), cancelled);
  })));
  while (rows.size() < kRows) rows.push_back(rows[0]->fork());

  for (int n = 0; n < 4; n++) {
    std::vector<int32_t> ids;
    const auto job = queue.enqueue([&](const std::atomic<bool>& cancelled) {
      std::vector<Sampler> samplers;
      std::vector<BatchRow> batch;
      for (int r = 0; r < kRows; r++) {
        SamplingParams params;
        params.top_k = 20;
        params.top_p = 0.9;
        samplers.emplace_back(params, static_cast<uint32_t>(r), std::vector<int32_t>(), kVocab);
        batch.push_back({rows[static_cast<size_t>(r)].get(), prompt.data(), 1, WantedLogits::last});
      }
      return decode(*model, *pool, batch, samplers, DecodeLimits{{}, 6, 1e9}, scratch, cancelled, &ids);
    });
    if (n > 0) {  // the first is the one that is compared
      std::this_thread::sleep_for(std::chrono::microseconds((round * 37 + n * 211) % 3000));
      job->cancelled = true;
    }
    (void)model->page_pool()->bytes_in_use();  // the addon asks from the JavaScript thread
    counted(queue.wait(job));
    if (n == 0 && first_ids->empty()) *first_ids = ids;
    else if (n == 0 && *first_ids != ids) wrong++;
  }
  rows.clear();
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 10;
  const ComputeType types[] = {ComputeType::float32, ComputeType::bfloat16, ComputeType::int8, ComputeType::int4};
  std::vector<int32_t> ids[8];
  for (int round = 0; round < rounds; round++) {
    std::vector<std::thread> lives;  // two models at once, as two workers have them
    for (int i = 0; i < 2; i++) lives.emplace_back([&, i] { live(round, types[(round + i) % 4], 2 + i, &ids[(round + i) % 4 + 4 * i]); });
    for (std::thread& life : lives) life.join();
  }
  std::printf("%d done, %d aborted, %d wrong\n", done.load(), aborted.load(), wrong.load());
  return wrong == 0 ? 0 : 1;
}
