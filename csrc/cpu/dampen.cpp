// Dampening in place. Few weights are selected, so a block is first only tested: 8 bytes per parameter are read
// (forget and retain), and the weights are touched only where a block has something to change.
#include "cpu/parallel.h"
#include "elementwise.h"

namespace potion {
namespace {

constexpr std::int64_t kBlock = 32;

POTION_INLINE void dampen_range(float* weights, const float* forget, const float* retain, std::int64_t n, float alpha,
                                float dampening) {
  std::int64_t start = 0;
  for (; start + kBlock <= n; start += kBlock) {
    const float* f = forget + start;
    const float* r = retain + start;
    float* w = weights + start;
    int any = 0;
    for (int i = 0; i < kBlock; ++i) any |= is_selected(f[i], r[i], alpha);
    if (!any) continue;
    for (int i = 0; i < kBlock; ++i) {
      const float changed = dampened(w[i], f[i], r[i], dampening);
      w[i] = is_selected(f[i], r[i], alpha) ? changed : w[i];
    }
  }
  for (std::int64_t i = start; i < n; ++i)
    if (is_selected(forget[i], retain[i], alpha)) weights[i] = dampened(weights[i], forget[i], retain[i], dampening);
}

void dampen_baseline(float* weights, const float* forget, const float* retain, std::int64_t n, float alpha,
                     float dampening) {
  dampen_range(weights, forget, retain, n, alpha, dampening);
}

#if POTION_HAS_AVX2
POTION_AVX2 void dampen_avx2(float* weights, const float* forget, const float* retain, std::int64_t n, float alpha,
                             float dampening) {
  dampen_range(weights, forget, retain, n, alpha, dampening);
}
#endif

}  // namespace

void dampen_cpu(float* weights, const float* forget, const float* retain, std::int64_t n, float alpha, float dampening,
                int threads) {
  auto* dampen = &dampen_baseline;
#if POTION_HAS_AVX2
  if (use_avx2()) dampen = &dampen_avx2;
#endif
  parallel_ranges(n, threads, [=](std::int64_t begin, std::int64_t end) {
    dampen(weights + begin, forget + begin, retain + begin, end - begin, alpha, dampening);
  });
}

const char* cpu_instructions() { return use_avx2() ? "AVX2" : "baseline"; }

}  // namespace potion
