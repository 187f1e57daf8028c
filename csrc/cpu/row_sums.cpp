// scale[n][c] = Σ_t g[n][t][c] · x̂[n][t][c] and shift[n][c] = Σ_t g[n][t][c], where x̂ is the row x[n][t] normalised. One
// read of both arrays; a row stays in the cache while its mean and its variance are taken.
#include <cmath>

#include "cpu/parallel.h"
#include "elementwise.h"

namespace potion {
namespace {

constexpr int kLanes = 16;

// Σ of what `value` gives for every element, in lanes, which the compiler vectorises without fast-math.
template <typename T, typename Value>
POTION_INLINE T lane_sum(const T* x, std::int64_t n, const Value& value) {
  T lanes[kLanes] = {};
  std::int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes)
    for (int i = 0; i < kLanes; ++i) lanes[i] += value(x[c + i]);
  for (int i = 0; c < n; ++c, ++i) lanes[i] += value(x[c]);
  T sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

template <typename T>
struct Rows {
  const T *inputs, *gradients;
  T *scale, *shift;
  std::int64_t rows, width;
  T eps;
  bool centred;
};

template <typename T>
POTION_INLINE void sum_groups(const Rows<T>& r, std::int64_t begin, std::int64_t end) {
  const T width = static_cast<T>(r.width);
  for (std::int64_t n = begin; n < end; ++n) {
    T *scale = r.scale + n * r.width, *shift = r.shift + n * r.width;
    for (std::int64_t c = 0; c < r.width; ++c) scale[c] = shift[c] = 0;
    for (std::int64_t t = 0; t < r.rows; ++t) {
      const T *x = r.inputs + (n * r.rows + t) * r.width, *g = r.gradients + (n * r.rows + t) * r.width;
      const T mean = r.centred ? lane_sum(x, r.width, [](T v) { return v; }) / width : T(0);
      const T variance = lane_sum(x, r.width, [mean](T v) { return (v - mean) * (v - mean); }) / width;
      const T factor = T(1) / std::sqrt(variance + r.eps);
      for (std::int64_t c = 0; c < r.width; ++c) {
        scale[c] += g[c] * ((x[c] - mean) * factor);
        shift[c] += g[c];
      }
    }
  }
}

template <typename T>
void sum_baseline(const Rows<T>& rows, std::int64_t begin, std::int64_t end) {
  sum_groups(rows, begin, end);
}

#if POTION_HAS_AVX2
template <typename T>
POTION_AVX2 void sum_avx2(const Rows<T>& rows, std::int64_t begin, std::int64_t end) {
  sum_groups(rows, begin, end);
}
#endif

}  // namespace

template <typename T>
void row_sums_cpu(T* scale, T* shift, const T* inputs, const T* gradients, std::int64_t N, std::int64_t rows,
                  std::int64_t width, double eps, bool centred, int threads) {
  auto* sum = &sum_baseline<T>;
#if POTION_HAS_AVX2
  if (use_avx2()) sum = &sum_avx2<T>;
#endif
  const Rows<T> all{inputs, gradients, scale, shift, rows, width, static_cast<T>(eps), centred};
  const std::int64_t size = std::max<std::int64_t>(rows * width, 1);  // of a group
  parallel_ranges(N * size, threads, [&](std::int64_t begin, std::int64_t end) {
    sum(all, (begin + size - 1) / size, (end + size - 1) / size);
  });
}

template void row_sums_cpu(float*, float*, const float*, const float*, std::int64_t, std::int64_t, std::int64_t, double,
                           bool, int);
template void row_sums_cpu(double*, double*, const double*, const double*, std::int64_t, std::int64_t, std::int64_t,
                           double, bool, int);

}  // namespace potion
