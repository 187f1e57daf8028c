// Threads and instruction sets of the CPU kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define POTION_HAS_AVX2 1
#define POTION_AVX2 __attribute__((target("avx2")))
#endif

namespace potion {

inline bool use_avx2() {
#if POTION_HAS_AVX2
  static const bool supported = __builtin_cpu_supports("avx2");
  return supported;
#else
  return false;
#endif
}

// Calls body(begin, end) on ranges that cover [0, n), at most `threads` at a time; the caller works on the last range.
//
// Threads are started per call: 20 to 50 µs each, against milliseconds for the arrays that are worth sharing. It
// keeps the module free of OpenMP, whose runtime would be a second one beside the one that torch brings.
template <typename Body>
void parallel_ranges(std::int64_t n, int threads, const Body& body) {
  constexpr std::int64_t kAlign = 64;        // ranges start on multiples of it, so no cache line has two writers
  constexpr std::int64_t kSmallest = 1 << 17;  // elements worth a thread
  const std::int64_t parts = std::clamp<std::int64_t>(n / kSmallest, 1, std::max(threads, 1));
  const std::int64_t step = (n / parts + kAlign - 1) / kAlign * kAlign;
  std::vector<std::thread> workers;
  std::int64_t begin = 0;
  try {
    workers.reserve(parts - 1);
    for (; static_cast<std::int64_t>(workers.size()) + 1 < parts && begin + step < n; begin += step)
      workers.emplace_back(body, begin, begin + step);
  } catch (const std::system_error&) {
    // No more threads to be had: the caller does the rest.
  }
  body(begin, n);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace potion
