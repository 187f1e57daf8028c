// What the CUDA kernels need beside csrc/bindings.cpp where tests/ops/conftest.py compiles them for the host.
#include <exception>
#include <string>

#include "cuda/block.cuh"

namespace potion {

std::string cuda_problem() { return ""; }

}  // namespace potion

namespace {

// Only the lower half of the warp comes to where all of it is awaited.
void wait_kernel() {
  if (potion::lane() < 16) __syncwarp(potion::kAll);
}

}  // namespace

// What the emulation says of a barrier that not all threads reach.
extern "C" __attribute__((visibility("default"))) const char* problem_of_a_barrier_that_not_all_reach() {
  static std::string problem;
  try {
    launch_on_cpu(1, 32, wait_kernel);
  } catch (const std::exception& error) {
    problem = error.what();
  }
  return problem.c_str();
}
