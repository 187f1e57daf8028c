// K dampened copies in one read of the weights and importances: 12 + 4K bytes per parameter. A chunk's dampened weights
// are computed once, and every copy takes them or the weights as they were.
#include "arguments.h"
#include "cpu/parallel.h"
#include "elementwise.h"

namespace potion {
namespace {

constexpr std::int64_t kChunk = 1024;

POTION_INLINE void dampen_chunk(float* copies, std::int64_t stride, const float* weights, const float* forget,
                                const float* retain, std::int64_t n, const Candidates& candidates) {
  float changed[kChunk];
  for (std::int64_t i = 0; i < n; ++i) changed[i] = dampened(weights[i], forget[i], retain[i], candidates.dampening);
  for (std::int64_t k = 0; k < candidates.count; ++k) {
    const float alpha = candidates.alphas[k];
    float* const copy = copies + k * stride;
    for (std::int64_t i = 0; i < n; ++i)
      copy[i] = is_selected(forget[i], retain[i], alpha) ? changed[i] : weights[i];
  }
}

void dampen_baseline(float* copies, std::int64_t stride, const float* weights, const float* forget, const float* retain,
                     std::int64_t n, const Candidates& candidates) {
  dampen_chunk(copies, stride, weights, forget, retain, n, candidates);
}

#if POTION_HAS_AVX2
POTION_AVX2 void dampen_avx2(float* copies, std::int64_t stride, const float* weights, const float* forget,
                             const float* retain, std::int64_t n, const Candidates& candidates) {
  dampen_chunk(copies, stride, weights, forget, retain, n, candidates);
}
#endif

}  // namespace

void dampen_many_cpu(float* copies, const float* weights, const float* forget, const float* retain, std::int64_t n,
                     const Candidates& candidates, int threads) {
  auto* dampen = &dampen_baseline;
#if POTION_HAS_AVX2
  if (use_avx2()) dampen = &dampen_avx2;
#endif
  parallel_ranges(n, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += kChunk)
      dampen(copies + i, n, weights + i, forget + i, retain + i, std::min(kChunk, end - i), candidates);
  });
}

}  // namespace potion
