// scale[b][c] = Σ_p g[b][c][p] · (x[b][c][p] − mean[c]) and shift[b][c] = Σ_p g[b][c][p], in one read of both arrays:
// memory bandwidth is the floor. Sums run in lanes, which the compiler vectorises without fast-math.
#include "cpu/parallel.h"
#include "elementwise.h"

namespace potion {
namespace {

constexpr int kLanes = 16;

// Channels one by one: positions are neighbours in memory.
template <typename T>
POTION_INLINE void sum_positions(const T* x, const T* g, std::int64_t positions, T mean, T* scale, T* shift) {
  T products[kLanes] = {}, sums[kLanes] = {};
  std::int64_t p = 0;
  for (; p + kLanes <= positions; p += kLanes)
    for (int i = 0; i < kLanes; ++i) {
      products[i] += g[p + i] * (x[p + i] - mean);
      sums[i] += g[p + i];
    }
  for (int i = 0; p < positions; ++p, ++i) {
    products[i] += g[p] * (x[p] - mean);
    sums[i] += g[p];
  }
  *scale = *shift = 0;
  for (int i = 0; i < kLanes; ++i) {
    *scale += products[i];
    *shift += sums[i];
  }
}

// A sample of channels-last images: channels are neighbours in memory.
template <typename T>
POTION_INLINE void sum_channels(const T* x, const T* g, std::int64_t positions, std::int64_t channels, const T* mean,
                                T* scale, T* shift) {
  for (std::int64_t c = 0; c < channels; ++c) scale[c] = shift[c] = 0;
  for (std::int64_t p = 0; p < positions; ++p, x += channels, g += channels)
    for (std::int64_t c = 0; c < channels; ++c) {
      scale[c] += g[c] * (x[c] - mean[c]);
      shift[c] += g[c];
    }
}

template <typename T>
struct Images {
  const T *inputs, *gradients, *mean;
  T *scale, *shift;
  std::int64_t channels, positions;
  bool channels_last;
};

template <typename T>
POTION_INLINE void sum_samples(const Images<T>& images, std::int64_t begin, std::int64_t end) {
  const std::int64_t channels = images.channels, positions = images.positions;
  for (std::int64_t b = begin; b < end; ++b) {
    const T *x = images.inputs + b * channels * positions, *g = images.gradients + b * channels * positions;
    T *scale = images.scale + b * channels, *shift = images.shift + b * channels;
    if (images.channels_last) {
      sum_channels(x, g, positions, channels, images.mean, scale, shift);
    } else {
      for (std::int64_t c = 0; c < channels; ++c)
        sum_positions(x + c * positions, g + c * positions, positions, images.mean[c], scale + c, shift + c);
    }
  }
}

template <typename T>
void sum_baseline(const Images<T>& images, std::int64_t begin, std::int64_t end) {
  sum_samples(images, begin, end);
}

#if POTION_HAS_AVX2
template <typename T>
POTION_AVX2 void sum_avx2(const Images<T>& images, std::int64_t begin, std::int64_t end) {
  sum_samples(images, begin, end);
}
#endif

}  // namespace

template <typename T>
void channel_sums_cpu(T* scale, T* shift, const T* inputs, const T* gradients, const T* mean, std::int64_t B,
                      std::int64_t C, std::int64_t positions, bool channels_last, int threads) {
  auto* sum = &sum_baseline<T>;
#if POTION_HAS_AVX2
  if (use_avx2()) sum = &sum_avx2<T>;
#endif
  const Images<T> images{inputs, gradients, mean, scale, shift, C, positions, channels_last};
  const std::int64_t size = std::max<std::int64_t>(C * positions, 1);  // of a sample
  parallel_ranges(B * size, threads, [&](std::int64_t begin, std::int64_t end) {
    sum(images, (begin + size - 1) / size, (end + size - 1) / size);
  });
}

template void channel_sums_cpu(float*, float*, const float*, const float*, const float*, std::int64_t, std::int64_t,
                               std::int64_t, bool, int);
template void channel_sums_cpu(double*, double*, const double*, const double*, const double*, std::int64_t,
                               std::int64_t, std::int64_t, bool, int);

}  // namespace potion
