// The whole native interface. potion_fast/ops.py has checked devices, dtypes, sizes, contiguity and aliasing before it
// calls. Addresses are those of contiguous arrays; sizes count elements, not bytes; nothing is allocated or kept.
// The operations are defined in potion_fast/reference.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace potion {

// Gradients in the order of the flat buffer; their sizes add up to its length.
struct Gradients {
  std::vector<std::uintptr_t> addresses;  // [tensors], each of an array of float or double
  std::vector<std::int64_t> sizes;        // [tensors]
};

// sums[i] += |g[i]|, or g[i]² if `square`.
template <typename T>           // float or double
void accumulate_cpu(T* sums,    // [n]
                    const Gradients& gradients, bool square, int threads);
template <typename T>
void accumulate_cuda(T* sums,   // [n] on the current device
                     const Gradients& gradients, bool square, std::uintptr_t stream);

// weights[i] *= min(dampening · retain[i] / forget[i], 1) wherever forget[i] > alpha · retain[i].
void dampen_cpu(float* weights,       // [n]
                const float* forget,  // [n]
                const float* retain,  // [n]
                std::int64_t n, float alpha, float dampening, int threads);
void dampen_cuda(float* weights,       // [n] on the current device
                 const float* forget,  // [n]
                 const float* retain,  // [n]
                 std::int64_t n, float alpha, float dampening, std::uintptr_t stream);

// The instructions that the CPU kernels use on this machine: "AVX2" or "baseline".
const char* cpu_instructions();

// Why the CUDA kernels cannot run on the current device (its driver, its architecture); empty if they can.
std::string cuda_problem();

}  // namespace potion
