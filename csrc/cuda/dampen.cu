// Dampening in place. Few weights are selected, so forget and retain are read (8 bytes per parameter) and a weight only
// where it changes. Each thread has kUnroll independent loads of both arrays in flight.
#include "cuda/launch.cuh"
#include "elementwise.h"

namespace potion {
namespace {

constexpr int kUnroll = 8;
constexpr int kTile = kThreads * kUnroll;

__global__ void __launch_bounds__(kThreads)
    dampen_kernel(float* __restrict__ weights,       // [n]
                  const float* __restrict__ forget,  // [n]
                  const float* __restrict__ retain,  // [n]
                  std::int64_t n, float alpha, float dampening) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kTile;
  for (std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kTile; start < n; start += stride) {
    float f[kUnroll];
    float r[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = start + u * kThreads + threadIdx.x;
      f[u] = i < n ? forget[i] : 0.0f;  // 0/0 is never selected
      r[u] = i < n ? retain[i] : 0.0f;
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = start + u * kThreads + threadIdx.x;
      if (is_selected(f[u], r[u], alpha)) weights[i] = dampened(weights[i], f[u], r[u], dampening);
    }
  }
}

}  // namespace

void dampen_cuda(float* weights, const float* forget, const float* retain, std::int64_t n, float alpha, float dampening,
                 std::uintptr_t stream) {
  if (n == 0) return;
  const int grid = grid_size((n + kTile - 1) / kTile, "dampen");
  dampen_kernel<<<grid, kThreads, 0, reinterpret_cast<cudaStream_t>(stream)>>>(weights, forget, retain, n, alpha,
                                                                             dampening);
  check(cudaGetLastError(), "dampen");
}

}  // namespace potion
