// The whole native interface. potion_fast/checks.py has seen devices, dtypes, sizes, contiguity and aliasing before
// potion_fast/launchers.py calls. Addresses are those of contiguous arrays; sizes count elements, not bytes; nothing is kept, and only the two
// products allocate (their scratch memory).
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

// sums[k][o][i] += Σ_n w[k][n] · |Σ_t G[n][t][o] · A[n][t][i]|, or its square if `square`.
struct Totals {
  std::vector<std::uintptr_t> sums;  // [K], each of an array of float or double
  std::vector<std::uintptr_t> bias;  // [K], or none: bias[k][o] += Σ_n w[k][n] · |Σ_t G[n][t][o]|
  std::uintptr_t weights;            // [K, N], or 0 for ones
  bool square;
};
template <typename T>                                    // float or double
void accumulate_linear_cpu(const Totals& totals,         // sums: [O, I] each, bias: [O] each
                           const T* inputs,              // [N, T, I]
                           const T* gradients,           // [N, T, O]
                           std::int64_t N, std::int64_t rows, std::int64_t O, std::int64_t I, int threads);

// The same for a convolution, whose rows are the output positions of `samples` samples. Sizes as [z, y, x]; what a
// convolution of fewer dimensions lacks is 1, its padding 0.
struct Convolution {
  std::int64_t N, samples, C, O, groups;
  std::vector<std::int64_t> input, output, kernel, stride, padding, dilation;  // [3]
};
template <typename T>                                  // float or double
void accumulate_conv_cpu(const Totals& totals,         // sums: [O, C / groups, *kernel] each, bias: [O] each
                         const T* inputs,              // [N · samples, *input, C]
                         const T* gradients,           // [N · samples, *output, O]
                         const Convolution& shape, int threads);

// scale[b][c] = Σ_p g[b][c][p] · (x[b][c][p] − mean[c]) and shift[b][c] = Σ_p g[b][c][p].
template <typename T>                           // float or double
void channel_sums_cpu(T* scale, T* shift,       // [B, C] each
                      const T* inputs,          // [B, C, positions], or [B, positions, C] if `channels_last`
                      const T* gradients,       // the same
                      const T* mean,            // [C]
                      std::int64_t B, std::int64_t C, std::int64_t positions, bool channels_last, int threads);

// scale[n][c] = Σ_t g[n][t][c] · x̂[n][t][c] and shift[n][c] = Σ_t g[n][t][c], where x̂ is the row x[n][t], its mean taken
// off if `centred`, divided by √(mean of squares + eps).
template <typename T>                       // float or double
void row_sums_cpu(T* scale, T* shift,       // [N, width] each
                  const T* inputs,          // [N, rows, width]
                  const T* gradients,       // [N, rows, width]
                  std::int64_t N, std::int64_t rows, std::int64_t width, double eps, bool centred, int threads);

// to[b][p][c] = from[b][c][p]
template <typename T>  // float or double
void channels_last_cpu(T* to, const T* from, std::int64_t B, std::int64_t C, std::int64_t P, int threads);

// The instructions that the two products use on this machine: "AVX-512", "AVX2" or "baseline". At most those of the
// name given to `limit_product_instructions`, by which the tests reach the others; "" takes the limit away.
const char* product_instructions();
void limit_product_instructions(const std::string& most);

// The instructions that the CPU kernels use on this machine: "AVX2" or "baseline".
const char* cpu_instructions();

// Why the CUDA kernels cannot run on the current device (its driver, its architecture); empty if they can.
std::string cuda_problem();

}  // namespace potion
