// Which tiles this machine runs.
#include "cpu/tiles.h"

#include <atomic>
#include <string>

namespace potion {
namespace {

enum Level { kBaseline, kAvx2, kAvx512 };

Level supported() {
#if POTION_HAS_AVX2
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
  return kBaseline;
}

std::atomic<Level> limit{kAvx512};

}  // namespace

template <typename T>
const Tiles<T>& tiles() {
#if POTION_HAS_AVX2
  static const Level best = supported();
  const Level level = std::min(best, limit.load());
  if (level == kAvx512) return tiles_avx512<T>();
  if (level == kAvx2) return tiles_avx2<T>();
#endif
  return tiles_portable<T>();
}
template const Tiles<float>& tiles();
template const Tiles<double>& tiles();

const char* product_instructions() { return tiles<float>().instructions; }

void limit_product_instructions(const std::string& most) {
  limit = most == "baseline" ? kBaseline : most == "AVX2" ? kAvx2 : kAvx512;
}

}  // namespace potion
