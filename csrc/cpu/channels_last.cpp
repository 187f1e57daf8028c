// [B, C, P] to [B, P, C], the order in which accumulate_conv reads, in small squares that stay in the cache.
#include "cpu/ordered_blocks.h"

namespace potion {

template <typename T>
void channels_last_cpu(T* to, const T* from, std::int64_t B, std::int64_t C, std::int64_t P, int threads) {
  constexpr std::int64_t kEdge = 16;
  const std::int64_t strips = ceil_divide(P, kEdge);
  const std::int64_t size = C * kEdge;  // of a strip: `kEdge` positions of a sample
  parallel_ranges(B * strips * size, threads, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = ceil_divide(begin, size); strip < ceil_divide(end, size); ++strip) {
      const std::int64_t sample = strip / strips, first = strip % strips * kEdge, last = std::min(first + kEdge, P);
      const T* image = from + sample * C * P;
      T* pixels = to + sample * C * P;
      for (std::int64_t c = 0; c < C; c += kEdge)
        for (std::int64_t p = first; p < last; ++p)
          for (std::int64_t i = c; i < std::min(c + kEdge, C); ++i) pixels[p * C + i] = image[i * P + p];
    }
  });
}

template void channels_last_cpu(float*, const float*, std::int64_t, std::int64_t, std::int64_t, int);
template void channels_last_cpu(double*, const double*, std::int64_t, std::int64_t, std::int64_t, int);

}  // namespace potion
