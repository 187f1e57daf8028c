// Just enough of CUDA to run the kernels of csrc/cuda on the host, one thread after the other: they use no barrier, no
// shared memory and no warp, so what this cannot show is speed and what the hardware's own arithmetic does.
#pragma once

#include <cstdint>
#include <stdexcept>

#define __global__
#define __launch_bounds__(threads)
#define __grid_constant__

struct Index { int x; };
inline Index blockIdx, threadIdx, gridDim;

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
constexpr int cudaDevAttrMultiProcessorCount = 16;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 1;  // one multiprocessor, so that the kernels have to stride over the grid
  return cudaSuccess;
}

template <typename Kernel>
void launch_on_cpu(int blocks, int threads, Kernel kernel) {
  if (blocks <= 0 || threads <= 0 || threads > 1024) throw std::runtime_error("invalid launch");
  gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel();
}
