// The elements of a block that a threshold leaves, one after the other.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace potion {

constexpr std::int64_t kCompactSlack = 16;  // elements that may be written beyond those kept

struct KeptBlock {
  std::int64_t count;    // kept
  std::int64_t invalid;  // not kept, and without a finite ratio
  bool negative;         // there is a sign bit; the counts say nothing then
};

// Keeps what has forget > 0 and forget ≥ bound · retain, for a bound ≥ 0 (a NaN keeps nothing). Writes [count] each.
using Compaction = KeptBlock (*)(const float* forget, const float* retain,  // [n]
                           std::int64_t n, float bound, std::uint16_t* places, float* kept_forget, float* kept_retain);

// The best for this machine that `limit_select_instructions` allows.
Compaction best_compaction();

}  // namespace potion
