// Sharing blocks of outputs among threads, so that what is added is added in one order.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "cpu/parallel.h"

namespace potion {

inline std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// [0, n) in `parts` parts that differ by at most one: the beginning of part i.
inline std::int64_t part(std::int64_t n, std::int64_t parts, std::int64_t i) { return n * i / parts; }

// Memory that begins with a cache line.
template <typename T>
class Scratch {
 public:
  explicit Scratch(std::int64_t n) : memory_(static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(kLine)))) {}
  ~Scratch() { ::operator delete(memory_, std::align_val_t(kLine)); }
  Scratch(Scratch&& other) noexcept : memory_(std::exchange(other.memory_, nullptr)) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return memory_; }

 private:
  static constexpr std::size_t kLine = 64;
  T* memory_;
};

// For every block and split: worker.compute(block, split), then worker.add(), which for each block happens split by
// split. A worker belongs to one thread; `make` makes one. What is allocated is allocated here, before a thread starts.
template <typename Make>
void run_blocks(std::int64_t blocks, std::int64_t splits, int threads, const Make& make) {
  const std::int64_t tasks = blocks * splits, count = std::clamp<std::int64_t>(threads, 1, tasks);
  std::vector<decltype(make())> workers;
  std::vector<std::int64_t> turn(blocks, 0);  // the split to be added next
  workers.reserve(count);
  for (std::int64_t i = 0; i < count; ++i) workers.push_back(make());

  std::atomic<std::int64_t> next{0};
  std::mutex mutex;
  std::condition_variable changed;
  const auto work = [&](std::int64_t i) {
    for (std::int64_t task; (task = next.fetch_add(1)) < tasks;) {
      // Split by split: whoever waits below waits for a task that has begun.
      const std::int64_t block = task % blocks, split = task / blocks;
      workers[i].compute(block, split);
      {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return turn[block] == split; });
      }
      workers[i].add();
      {
        const std::lock_guard<std::mutex> lock(mutex);
        ++turn[block];
      }
      changed.notify_all();
    }
  };
  run_on_threads(count, work);
}

}  // namespace potion
