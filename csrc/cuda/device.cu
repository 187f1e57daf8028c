// Can this build run on the current device? Asked before the first launch, so that a GPU that is older than the
// compiled architectures, or a driver that is older than the linked runtime, leads to another backend, not to an error.
#include "cuda/launch.cuh"

namespace potion {
namespace {

__global__ void probe_kernel() {}

}  // namespace

std::string cuda_problem() {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (status == cudaSuccess) return "";
  cudaGetLastError();  // forget it, or the next launch would report it
  return std::string("the CUDA kernels of this build do not run here (") + cudaGetErrorString(status) + ")";
}

}  // namespace potion
