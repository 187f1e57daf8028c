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

inline std::int64_t multiprocessors(const char* op) {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), op);
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), op);
  return count;
}

// Enough blocks to fill the current device; the kernels stride over the rest. 8 × 256 threads fill a multiprocessor.
inline int grid_size(std::int64_t tiles, const char* op) {
  return static_cast<int>(std::min<std::int64_t>(tiles, 8 * multiprocessors(op)));
}

// The same for a kernel whose registers or shared memory let fewer blocks run at a time: more would form a second wave.
template <typename Kernel>
int grid_size(std::int64_t tiles, Kernel* kernel, const char* op) {
  int blocks = 0;  // per multiprocessor
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, 0), op);
  return static_cast<int>(std::min<std::int64_t>(tiles, blocks * multiprocessors(op)));
}

}  // namespace potion
