// Threads and instruction sets of the CPU kernels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#endif

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

using OpenMPParallel = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

// How this process's OpenMP runtime, the one that torch brings, runs a function on its threads; null without one.
//
// After each operation of torch these threads go on spinning for milliseconds, and threads of our own would have to
// share the cores with them. To link OpenMP would bring a second runtime, with a second set; so it is looked up.
inline OpenMPParallel openmp_parallel() {
#if defined(__linux__)
  static const auto parallel = reinterpret_cast<OpenMPParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return parallel;
#else
  return nullptr;
#endif
}

// Calls work(i) once for every i in [0, count), on as many threads if they are to be had, the caller's among them.
template <typename Work>
void run_on_threads(std::int64_t count, const Work& work) {
  struct Share {
    const Work& work;
    std::int64_t count;
    std::atomic<std::int64_t> next{0};
    void run() {
      for (std::int64_t i; (i = next.fetch_add(1)) < count;) work(i);
    }
  } share{work, count};
  if (count == 1) return work(0);
  if (const OpenMPParallel parallel = openmp_parallel()) {
    parallel([](void* data) { static_cast<Share*>(data)->run(); }, &share, static_cast<unsigned>(count), 0);
    return;
  }
  std::vector<std::thread> others;
  try {
    others.reserve(count - 1);
    for (std::int64_t i = 1; i < count; ++i) others.emplace_back([&share] { share.run(); });
  } catch (const std::system_error&) {
    // No more threads to be had: these do all the work.
  }
  share.run();
  for (std::thread& thread : others) thread.join();
}

// Calls body(begin, end) on ranges that cover [0, n), at most `threads` at a time.
template <typename Body>
void parallel_ranges(std::int64_t n, int threads, const Body& body) {
  constexpr std::int64_t kAlign = 64;          // ranges start on multiples of it, so no cache line has two writers
  constexpr std::int64_t kSmallest = 1 << 17;  // elements worth a thread
  const std::int64_t parts = std::clamp<std::int64_t>(n / kSmallest, 1, std::max(threads, 1));
  const std::int64_t step = (n / parts + kAlign - 1) / kAlign * kAlign;
  run_on_threads(parts, [&](std::int64_t i) {
    const std::int64_t begin = std::min(i * step, n), end = i + 1 == parts ? n : std::min(begin + step, n);
    if (begin < end || n == 0) body(begin, end);
  });
}

}  // namespace potion
