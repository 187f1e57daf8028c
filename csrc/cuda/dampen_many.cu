// K dampened copies of the weights (eq. 1) in one read of weights, forget and retain: (12 + 4K) bytes per weight. The
// new value does not depend on α, so it is computed once, and each candidate chooses between the two.
#include "arguments.h"
#include "cuda/launch.cuh"
#include "elementwise.h"

namespace potion {
namespace {

constexpr int kUnroll = 4;
constexpr int kTile = kThreads * kUnroll;

__global__ void __launch_bounds__(kThreads)
    dampen_many_kernel(float* __restrict__ copies,         // [K, n]
                       const float* __restrict__ weights,  // [n]
                       const float* __restrict__ forget,   // [n]
                       const float* __restrict__ retain,   // [n]
                       const float* __restrict__ alphas,   // [K]
                       std::int64_t n, std::int64_t K, float dampening) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kTile;
  for (std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kTile; start < n; start += stride) {
    float f[kUnroll], r[kUnroll], before[kUnroll], after[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = start + u * kThreads + threadIdx.x;
      f[u] = i < n ? forget[i] : 0.0f;
      r[u] = i < n ? retain[i] : 0.0f;
      before[u] = i < n ? weights[i] : 0.0f;
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) after[u] = dampened(before[u], f[u], r[u], dampening);
    for (std::int64_t k = 0; k < K; ++k) {
      const float alpha = alphas[k];
      float* copy = copies + k * n;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const std::int64_t i = start + u * kThreads + threadIdx.x;
        if (i < n) __stcs(copy + i, is_selected(f[u], r[u], alpha) ? after[u] : before[u]);
      }
    }
  }
}

}  // namespace

void dampen_many_cuda(float* copies, const float* weights, const float* forget, const float* retain, std::int64_t n,
                      const Candidates& candidates, std::uintptr_t stream) {
  if (n == 0 || candidates.count == 0) return;
  const int grid = grid_size((n + kTile - 1) / kTile, dampen_many_kernel, "dampen_many");
  dampen_many_kernel<<<grid, kThreads, 0, reinterpret_cast<cudaStream_t>(stream)>>>(
      copies, weights, forget, retain, candidates.alphas, n, candidates.count, candidates.dampening);
  check(cudaGetLastError(), "dampen_many");
}

}  // namespace potion
