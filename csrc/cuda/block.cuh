// What the threads of a block do together.
#pragma once

#include "cuda/launch.cuh"

namespace potion {

constexpr unsigned kAll = 0xffffffffu;  // every lane of a warp
constexpr int kWarps = kThreads / 32;

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int warp() { return threadIdx.x / 32; }

// The sum of `value` over the lanes up to and with this one.
template <typename T>
__device__ T warp_scan(T value) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const T other = __shfl_up_sync(kAll, value, distance);
    if (lane() >= distance) value += other;
  }
  return value;
}

// The sum of `value` over the threads before this one, and over all of them. Every thread of the block calls it.
template <typename T>
__device__ T block_scan(T value, T& total) {
  __shared__ T sums[kWarps];
  const T inclusive = warp_scan(value);
  if (lane() == 31) sums[warp()] = inclusive;
  __syncthreads();
  T before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp()) before += sums[w];
    total += sums[w];
  }
  __syncthreads();  // the next call writes `sums`
  return before + inclusive - value;
}

// histogram[bin] += 1 for every lane that wants it; lanes with the same bin add once. Every lane of the warp calls it.
__device__ inline void count_together(unsigned long long* histogram, unsigned bin, bool wanted) {
  const unsigned active = __ballot_sync(kAll, wanted);
  if (!wanted) return;
  const unsigned peers = __match_any_sync(active, bin);
  if (lane() == __ffs(peers) - 1) atomicAdd(histogram + bin, static_cast<unsigned long long>(__popc(peers)));
}

}  // namespace potion
