// Structures and constants that the kernels of several files and bindings.cpp share.
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

// Sums of the two products, accumulate_linear and accumulate_conv.
struct Totals {
  std::vector<std::uintptr_t> sums;  // [K], each of an array of float or double
  std::vector<std::uintptr_t> bias;  // [K], or none: bias[k][o] += Σ_n w[k][n] · |Σ_t G[n][t][o]|
  std::uintptr_t weights;            // [K, N], or 0 for ones
  bool square;
};

// Sizes as [z, y, x]; what a convolution of fewer dimensions lacks is 1, its padding 0.
struct Convolution {
  std::int64_t N, samples, C, O, groups;
  std::vector<std::int64_t> input, output, kernel, stride, padding, dilation;  // [3]
};

// α and λ of eq. 1.
struct Candidates {
  const float* alphas;  // [count]
  std::int64_t count;   // K
  float dampening;
};

// Below the percentiles that are wanted.
struct Bound {
  float ratio;            // no percentile is likely to be below
  std::int64_t capacity;  // more weights are not likely to be kept; 0 where too many would be
};

// The weights above a bound, block by block.
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

// In one call of the CUDA kernels.
constexpr int kMostPercentiles = 64;
constexpr int kMostGroups = 255;

// Places in a flat buffer that is spread over parameters: index[cuts[p]] to index[cuts[p + 1] - 1] lie in parameter p.
struct Places {
  std::vector<std::uintptr_t> addresses;  // [P], each of an array of float
  std::vector<std::int64_t> sizes;        // [P]
  std::vector<std::int64_t> offsets;      // [P]: where each begins in the flat buffer
  std::vector<std::int64_t> cuts;         // [P + 1]
};

}  // namespace potion
