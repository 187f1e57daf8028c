// sums += |g| or g² over a list of gradients. 12 bytes per float parameter: memory bandwidth is the floor.
#include "arguments.h"
#include "cpu/parallel.h"
#include "elementwise.h"

namespace potion {
namespace {

template <bool square, typename T>
POTION_INLINE void add_magnitudes(T* sums, const T* gradient, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) sums[i] += magnitude<square>(gradient[i]);
}

template <bool square, typename T>
void add_baseline(T* sums, const T* gradient, std::int64_t n) {
  add_magnitudes<square>(sums, gradient, n);
}

#if POTION_HAS_AVX2
template <bool square, typename T>
POTION_AVX2 void add_avx2(T* sums, const T* gradient, std::int64_t n) {
  add_magnitudes<square>(sums, gradient, n);
}
#endif

template <bool square, typename T>
void accumulate(T* sums, const Gradients& gradients, int threads) {
  auto* add = &add_baseline<square, T>;
#if POTION_HAS_AVX2
  if (use_avx2()) add = &add_avx2<square, T>;
#endif
  std::int64_t n = 0;
  for (const std::int64_t size : gradients.sizes) n += size;
  parallel_ranges(n, threads, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t start = 0;  // of the gradient within sums
    for (std::size_t i = 0; i < gradients.sizes.size() && start < end; start += gradients.sizes[i++]) {
      const std::int64_t from = std::max(begin, start);
      const std::int64_t to = std::min(end, start + gradients.sizes[i]);
      const T* gradient = reinterpret_cast<const T*>(gradients.addresses[i]);
      if (from < to) add(sums + from, gradient + (from - start), to - from);
    }
  });
}

}  // namespace

template <typename T>
void accumulate_cpu(T* sums, const Gradients& gradients, bool square, int threads) {
  square ? accumulate<true>(sums, gradients, threads) : accumulate<false>(sums, gradients, threads);
}

template void accumulate_cpu(float*, const Gradients&, bool, int);
template void accumulate_cpu(double*, const Gradients&, bool, int);

}  // namespace potion
