// What every launch needs: a grid, and an error that is not lost.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace potion {

constexpr int kThreads = 256;  // per block, in every kernel

inline void check(cudaError_t status, const char* op) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("potion_fast, CUDA kernel ") + op + ": " + cudaGetErrorString(status));
}

// Enough blocks to fill the current device; the kernels stride over the rest. 8 × 256 threads fill a multiprocessor.
inline int grid_size(std::int64_t tiles, const char* op) {
  int device = 0;
  int multiprocessors = 0;
  check(cudaGetDevice(&device), op);
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), op);
  return static_cast<int>(std::min<std::int64_t>(tiles, 8LL * multiprocessors));
}

}  // namespace potion
