// The whole native interface. potion_fast/checks.py has seen devices, dtypes, sizes, contiguity and aliasing before
// potion_fast/launchers.py calls. Addresses are those of contiguous arrays; sizes count elements, not bytes; nothing is
// kept, and only the two products, `select` and `group` allocate (their scratch memory).
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

// α and λ of eq. 1.
struct Candidates {
  const float* alphas;  // [count]
  std::int64_t count;   // K
  float dampening;
};

// copies[k][i] = weights[i], dampened wherever forget[i] > alphas[k] · retain[i].
void dampen_many_cpu(float* copies,         // [K, n]
                     const float* weights,  // [n]
                     const float* forget,   // [n]
                     const float* retain,   // [n]
                     std::int64_t n, const Candidates& candidates, int threads);
void dampen_many_cuda(float* copies,         // [K, n]
                      const float* weights,  // [n]
                      const float* forget,   // [n]
                      const float* retain,   // [n]
                      std::int64_t n, const Candidates& candidates, std::uintptr_t stream);

// Percentiles of forget / retain, and groups of weights by the first candidate that selects them. In that order: a bound
// below the percentiles; the percentiles, from the weights that it leaves, which are kept in memory of the caller's, or
// from all; the number of weights in each group; the groups. None of them takes numbers with a sign bit.
struct Bound {
  float ratio;            // no percentile is likely to be below
  std::int64_t capacity;  // more weights are not likely to be kept; 0 where too many would be
};
Bound select_bound_cpu(const float* forget,  // [n]
                       const float* retain,  // [n]
                       std::int64_t n, double lowest);

constexpr std::int64_t kSelectBlock = 1 << 16;  // weights; their places within it fit 16 bits
struct Survivors {
  std::uint16_t* places;  // [capacity], within a block
  float* forget;          // [capacity]
  float* retain;          // [capacity]
  std::int64_t* parts;    // [⌈n / kSelectBlock⌉, 2]: where each block's begin, and how many there are
  std::int64_t capacity;
};

// kMissed: the bound was too high or the capacity too small, take all. kNegative: there is a sign bit.
enum class Selected { kDone, kMissed, kNegative };
Selected select_kept_cpu(const float* forget,  // [n]
                         const float* retain,  // [n]
                         std::int64_t n, float bound, const std::vector<double>& percentiles,  // [K], at least one
                         const Survivors& survivors,
                         float* alphas,        // [K]
                         int threads);
Selected select_all_cpu(const float* forget,  // [n]
                        const float* retain,  // [n]
                        std::int64_t n, const std::vector<double>& percentiles,  // [K], at least one
                        float* alphas,        // [K]
                        int threads);

// Candidates by falling α, NaN first, at least one. `survivors` of these arrays, none of α above its bound, or null.
// False where there is a sign bit. The survivors of each block are sorted by group, for `write_groups_cpu`.
bool count_groups_cpu(const float* forget,  // [n]
                      const float* retain,  // [n]
                      std::int64_t n, const Survivors* survivors, const Candidates& candidates,
                      std::int64_t* table,   // [⌈n / kSelectBlock⌉, K], for `write_groups_cpu`
                      std::int64_t* starts,  // [K + 1]
                      int threads);
template <typename Index>                   // std::int32_t or std::int64_t
void write_groups_cpu(const float* forget,  // [n]
                      const float* retain,  // [n]
                      std::int64_t n, const Survivors* survivors, const Candidates& candidates,
                      const std::int64_t* table, const std::int64_t* starts,
                      Index* index,         // [starts[K]]
                      float* group_forget,  // [starts[K]]
                      float* group_retain,  // [starts[K]]
                      int threads);

// Percentiles and groups on a GPU. Both work in `memory` on the current device, as many bytes as `ratios_bytes` says.
// With a capacity above 0 the importances are read once, and at most so many weights of the greatest ratios are kept
// there; with 0 they are read several times and none is kept. Afterwards `memory` begins with the report, [1 + K] int64:
// 1 if the kept weights were too few or too many, and the call has to be repeated with capacity 0; else 0 and the number
// of weights in each group. Importances of any sign, any α in any order.
constexpr int kMostPercentiles = 64;  // in one call
constexpr int kMostGroups = 255;
std::int64_t ratios_bytes(std::int64_t n, int K, std::int64_t capacity);
void select_cuda(const float* forget,  // [n]
                 const float* retain,  // [n]
                 std::int64_t n, const std::vector<double>& percentiles,  // [K]
                 std::int64_t capacity, void* memory,
                 float* alphas,        // [K]
                 std::uintptr_t stream);
void count_groups_cuda(const float* forget,  // [n]
                       const float* retain,  // [n]
                       std::int64_t n, const Candidates& candidates,
                       bool selected,        // `memory` is as select_cuda has left it, with these αs
                       std::int64_t capacity, void* memory, std::uintptr_t stream);
template <typename Index>                    // std::int32_t or std::int64_t
void write_groups_cuda(const float* forget,  // [n]
                       const float* retain,  // [n]
                       std::int64_t n, const Candidates& candidates,
                       const std::vector<std::int64_t>& starts,  // [K + 1]
                       std::int64_t capacity,
                       void* memory,         // as count_groups_cuda has left it
                       Index* index,         // [starts[K]]
                       float* group_forget,  // [starts[K]]
                       float* group_retain,  // [starts[K]]
                       std::uintptr_t stream);

// Places in a flat buffer that is spread over parameters: index[cuts[p]] to index[cuts[p + 1] - 1] lie in parameter p.
struct Places {
  std::vector<std::uintptr_t> addresses;  // [P], each of an array of float
  std::vector<std::int64_t> sizes;        // [P]
  std::vector<std::int64_t> offsets;      // [P]: where each begins in the flat buffer
  std::vector<std::int64_t> cuts;         // [P + 1]
};
// values[i] = weight at index[i], and the reverse. False where a place was outside its parameter, and was left out.
template <typename Index>                // std::int32_t or std::int64_t
bool take_cpu(const Places& places, const Index* index, float* values, int threads);
template <typename Index>
bool put_cpu(const Places& places, const Index* index, const float* values, int threads);
// The same for places that all lie in their parameters.
template <typename Index>  // std::int32_t or std::int64_t
void take_cuda(const Places& places, const Index* index, float* values, std::uintptr_t stream);
template <typename Index>
void put_cuda(const Places& places, const Index* index, const float* values, std::uintptr_t stream);

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

// The same for the pass that keeps the weights above a bound.
const char* select_instructions();
void limit_select_instructions(const std::string& most);

// The instructions that the CPU kernels use on this machine: "AVX2" or "baseline".
const char* cpu_instructions();

// Why the CUDA kernels cannot run on the current device (its driver, its architecture); empty if they can.
std::string cuda_problem();

}  // namespace potion
