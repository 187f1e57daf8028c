// K percentiles of the ratios Ω_f / Ω_r (eq. 7), exact, without an array of ratios and without a sort.
//
// With room for the weights of large ratio: a sample bounds the wanted ratios from below, `compact` keeps what reaches
// that bound, and the ranks are looked up among the kept. Without room, or where the bound was too high, they are
// looked up among all. A rank is found digit by digit: 12, 10 and 10 bits of the ratio, each by a histogram of the
// ratios that begin with the digits found so far. RadixSelect are counted from the greatest ratio, so what the bound left out
// is no matter.
#include <cmath>
#include <stdexcept>

#include "cuda/block.cuh"
#include "cuda/workspace.cuh"

namespace potion {
namespace {

constexpr int kUnroll = 8;
constexpr int kRead = kThreads * kUnroll;  // elements that a block reads at a time
constexpr std::int64_t kSamples = 1 << 18;

struct Quantiles {
  double q[kMostPercentiles];  // p / 100
};

// Positions that look random: the finaliser of SplitMix64, scaled to [0, n).
__device__ inline std::int64_t position(std::uint64_t j, std::int64_t n) {
  j = (j + 1) * 0x9e3779b97f4a7c15u;
  j = (j ^ (j >> 30)) * 0xbf58476d1ce4e5b9u;
  j = (j ^ (j >> 27)) * 0x94d049bb133111ebu;
  return __umul64hi(j ^ (j >> 31), n);
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const Workspace work,
                  const float* __restrict__ forget,  // [n]
                  const float* __restrict__ retain,  // [n]
                  std::int64_t n) {
  for (std::int64_t j = blockIdx.x * kThreads + threadIdx.x; j < kSamples; j += gridDim.x * kThreads) {
    const std::int64_t i = position(j, n);
    const float ratio = forget[i] / retain[i];
    if (is_finite(ratio)) atomicAdd(work.sample + (ratio > 0.0f ? bits_of(ratio) >> kSampleShift : 0), 1u);
  }
}

// The bound: the sample's quantile q minus 6 σ and a little for small counts, rounded down to the edge of a bin. That
// it lies above a wanted ratio has a chance of about 10⁻⁹, and is noticed.
__global__ void __launch_bounds__(kThreads) bound_kernel(const Workspace work, double q) {
  constexpr int kBins = kSample / kThreads;  // of a thread, the first thread has the greatest ratios
  const int greatest = kSample - 1 - static_cast<int>(threadIdx.x) * kBins;
  unsigned count = 0;
#pragma unroll 8
  for (int b = 0; b < kBins; ++b) count += work.sample[greatest - b];
  unsigned total;
  unsigned before = block_scan(count, total);
  State& state = *work.state;
  const double above = total * (1 - q);
  const double wanted = std::ceil(above + 6 * std::sqrt(above * q) + 10);
  if (wanted >= total) {
    if (threadIdx.x == 0) state.failed = 1;
  } else if (before < wanted && wanted <= before + count) {
    int bin = greatest;
    for (; before + work.sample[bin] < wanted; --bin) before += work.sample[bin];
    state.least = float_of(static_cast<std::uint32_t>(bin) << kSampleShift);
    state.bound = bound_below(state.least);
  }
}

// Counts the digit of every ratio that begins as a target does. `kept`: of the kept weights, else of all.
template <int digit>
__global__ void __launch_bounds__(kThreads)
    digit_kernel(const Workspace work,
                 const float* __restrict__ forget,  // [n]
                 const float* __restrict__ retain,  // [n]
                 std::int64_t n, bool kept) {
  __shared__ unsigned bins[digit == 1 ? kFirst : 1];
  __shared__ std::uint8_t slots[digit == 1 ? 1 : kFirst];
  State& state = *work.state;
  if (has_failed(state)) return;
  if (kept) n = state.survivors;
  for (int bin = threadIdx.x; bin < kFirst; bin += kThreads) {
    if constexpr (digit == 1)
      bins[bin] = 0;
    else
      slots[bin] = work.first_slot[bin];
  }
  __syncthreads();

  unsigned not_finite = 0;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kRead;
  for (std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kRead; start < n; start += stride) {
    float f[kUnroll];
    float r[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = start + u * kThreads + threadIdx.x;
      f[u] = i < n ? forget[i] : 0.0f;  // 0/0 has no rank
      r[u] = i < n ? retain[i] : 0.0f;
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const float ratio = f[u] / r[u];
      const bool ranked = is_finite(ratio);
      const std::uint32_t key = ordered(ratio);
      if constexpr (digit == 1) {
        if (ranked)
          atomicAdd(&bins[key >> 20], 1u);
        else
          not_finite += start + u * kThreads + threadIdx.x < n;
      } else {
        const int slot = ranked ? slots[key >> 20] : 0;
        const int second = (slot - 1) * kNext + (key >> 10) % kNext;
        if constexpr (digit == 2) {
          count_together(work.second, second, slot > 0);
        } else {
          const int next_slot = slot > 0 ? work.second_slot[second] : 0;
          count_together(work.third, (next_slot - 1) * kNext + key % kNext, next_slot > 0);
        }
      }
    }
  }

  if constexpr (digit == 1) {
    __syncthreads();
    for (int bin = threadIdx.x; bin < kFirst; bin += kThreads)
      if (bins[bin]) atomicAdd(work.first + bin, static_cast<unsigned long long>(bins[bin]));
    const unsigned all_not_finite = warp_scan(not_finite);
    if (lane() == 31 && all_not_finite) atomicAdd(&state.not_finite, static_cast<unsigned long long>(all_not_finite));
  }
}

// Block k finds the next digit of the two ranks that percentile k lies between, and after the last digit α_k.
template <int digit>
__global__ void __launch_bounds__(kThreads)
    pick_kernel(const Workspace work, float* __restrict__ alphas,  // [K]
                const Quantiles quantiles, std::int64_t n, bool kept) {
  constexpr int kBins = digit == 1 ? kFirst : kNext;
  constexpr int kShift = digit == 1 ? 20 : digit == 2 ? 10 : 0;
  constexpr int kEach = kBins / kThreads;  // bins of a thread, the first thread has the greatest ratios
  __shared__ float found[2];

  State& state = *work.state;
  if (has_failed(state)) return;
  const std::int64_t valid = n - static_cast<std::int64_t>(state.not_finite);
  if (valid == 0) {
    if (digit == 3 && threadIdx.x == 0) alphas[blockIdx.x] = NAN;
    return;
  }
  const Rank rank = rank_of(quantiles.q[blockIdx.x], valid);
#pragma unroll 1
  for (int side = 0; side < 2; ++side) {
    const int t = 2 * blockIdx.x + side;
    const std::int64_t smaller = rank.low + side < valid ? rank.low + side : valid - 1;
    Target target{0, valid - 1 - smaller};
    const unsigned long long* histogram = work.first;
    if constexpr (digit > 1) {
      target = state.targets[t];
      const int second = (work.first_slot[target.key >> 20] - 1) * kNext;
      histogram = work.second + second;
      if constexpr (digit == 3)
        histogram = work.third + (work.second_slot[second + (target.key >> 10) % kNext] - 1) * kNext;
    }
    const int greatest = kBins - 1 - static_cast<int>(threadIdx.x) * kEach;
    std::int64_t counts[kEach];
    std::int64_t count = 0;
#pragma unroll
    for (int b = 0; b < kEach; ++b) count += counts[b] = histogram[greatest - b];
    std::int64_t total;
    std::int64_t before = block_scan(count, total);
    if (target.greater >= total && threadIdx.x == 0) state.failed = 1;  // the kept are too few
#pragma unroll
    for (int b = 0; b < kEach; ++b) {
      if (before <= target.greater && target.greater < before + counts[b]) {
        const int bin = greatest - b;
        const std::uint32_t key = target.key | static_cast<std::uint32_t>(bin) << kShift;
        state.targets[t] = {key, target.greater - before};
        // Targets with the same digits share a row: the last one's, whichever that is.
        if constexpr (digit == 1) work.first_slot[bin] = t + 1;
        if constexpr (digit == 2) work.second_slot[histogram - work.second + bin] = t + 1;
        if constexpr (digit == 3) found[side] = from_ordered(key);
      }
      before += counts[b];
    }
  }
  if constexpr (digit == 3) {
    __syncthreads();
    if (threadIdx.x == 0) {
      alphas[blockIdx.x] = interpolated(found[0], found[1], rank.weight);
      if (kept && found[0] < state.least) state.failed = 1;  // others above it may not have been kept
    }
  }
}

template <int digit>
void launch_digit(const Workspace& work, const float* forget, const float* retain, std::int64_t n,
                  cudaStream_t stream) {
  const bool kept = work.capacity > 0;
  if (kept) forget = work.forget, retain = work.retain;
  const std::int64_t most = kept ? std::min(n, work.capacity) : n;  // how many are kept is known on the device only
  const int grid = grid_size((most + kRead - 1) / kRead, digit_kernel<digit>, "select");
  digit_kernel<digit><<<grid, kThreads, 0, stream>>>(work, forget, retain, n, kept);
  check(cudaGetLastError(), "select");
}

}  // namespace

std::int64_t ratios_bytes(std::int64_t n, int K, std::int64_t capacity) {
  return static_cast<std::int64_t>(Workspace(nullptr, n, K, capacity).bytes);
}

void select_cuda(const float* forget, const float* retain, std::int64_t n, const std::vector<double>& percentiles,
                 std::int64_t capacity, void* memory, float* alphas, std::uintptr_t stream_address) {
  const auto stream = reinterpret_cast<cudaStream_t>(stream_address);
  const int K = static_cast<int>(percentiles.size());
  if (K > kMostPercentiles) throw std::invalid_argument("select: too many percentiles in one call");
  Quantiles quantiles{};
  for (int k = 0; k < K; ++k) quantiles.q[k] = percentiles[k] / 100;
  const Workspace work(memory, n, K, capacity);
  const bool kept = capacity > 0;
  check(cudaMemsetAsync(memory, 0, work.zeroed, stream), "select");
  if (K == 0) return;
  if (kept) {
    const int grid = grid_size(kSamples / kThreads, "select");
    sample_kernel<<<grid, kThreads, 0, stream>>>(work, forget, retain, n);
    check(cudaGetLastError(), "select");
    bound_kernel<<<1, kThreads, 0, stream>>>(work, *std::min_element(quantiles.q, quantiles.q + K));
    check(cudaGetLastError(), "select");
    compact(work, forget, retain, n, stream);
  } else if (n > 0) {
    launch_digit<1>(work, forget, retain, n, stream);
  }
  pick_kernel<1><<<K, kThreads, 0, stream>>>(work, alphas, quantiles, n, kept);
  check(cudaGetLastError(), "select");
  if (n > 0) launch_digit<2>(work, forget, retain, n, stream);
  pick_kernel<2><<<K, kThreads, 0, stream>>>(work, alphas, quantiles, n, kept);
  check(cudaGetLastError(), "select");
  if (n > 0) launch_digit<3>(work, forget, retain, n, stream);
  pick_kernel<3><<<K, kThreads, 0, stream>>>(work, alphas, quantiles, n, kept);
  check(cudaGetLastError(), "select");
}

}  // namespace potion
