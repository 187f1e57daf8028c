// What the kernels of select and partition decide about one ratio Ω_f / Ω_r, for both devices. As in elementwise.h
// every product and quotient is rounded on its own, so that the decisions are those of potion_fast/ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "elementwise.h"

namespace potion {

POTION_INLINE std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

POTION_INLINE float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// 0/0, x/0 and overflow have no rank.
POTION_INLINE bool is_finite(float value) { return (bits_of(value) & 0x7f800000u) != 0x7f800000u; }

// A whole number in the order of the floats, and back.
POTION_INLINE std::uint32_t ordered(float value) {
  const std::uint32_t bits = bits_of(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
POTION_INLINE float from_ordered(std::uint32_t key) { return float_of(key >> 31 ? key & 0x7fffffffu : ~key); }

// What has RN(f / r) > least or f > RN(α · r) for an α ≥ least survives a bound of at most `least`: a product picks the
// candidates for both questions, and only they are divided. What has RN(f / r) = least survives if the bound is a
// little smaller and not subnormal; some that have less survive as well.
POTION_INLINE float bound_below(float least) { return least * (1.0f - 0x1p-20f); }
POTION_INLINE bool survives(float forget, float retain, float bound) {
  return forget > 0.0f && forget >= bound * retain;
}

// The ratio has no rank although the weight does not survive: 0/0 or a NaN (no x/0, which survives). For Ω_r ≥ 0.
POTION_INLINE bool has_no_rank(float forget, float retain) { return !(retain > 0.0f) || forget != forget; }

// Where the percentile q = p / 100 of `valid` sorted ratios lies: between ranks low and low + 1, `weight` of the way.
struct Rank {
  std::int64_t low;
  double weight;
};
POTION_INLINE Rank rank_of(double q, std::int64_t valid) {
  const double rank = static_cast<double>(valid - 1) * q;
  const double low = std::floor(rank);
  return {static_cast<std::int64_t>(low), rank - low};
}

// Linear interpolation as NumPy has it: the difference in float32, the rest in float64, from the nearer end.
POTION_INLINE float interpolated(float a, float b, double weight) {
  const double gap = b - a;
  return static_cast<float>(weight < 0.5 ? a + gap * weight : b - gap * (1 - weight));
}

// λ · Ω_r / Ω_f < 1: dampening changes the weight.
POTION_INLINE bool is_changed(float forget, float retain, float dampening) {
  return dampening * retain / forget < 1.0f;
}

// The first of the K falling αs (NaN first) that selects the weight, or K. For importances, which are not negative, the
// candidates are nested: RN(α · r) never falls as α grows, so bisection finds it.
POTION_INLINE int first_group(float forget, float retain, const float* falling, int K) {
  if (K == 0) return 0;
  if (!(retain >= 0.0f && falling[K - 1] >= 0.0f)) {
    for (int k = 0; k < K; ++k)
      if (is_selected(forget, retain, falling[k])) return k;
    return K;
  }
  if (!is_selected(forget, retain, falling[K - 1])) return K;
  int first = 0;
  for (int last = K - 1; first < last;) {
    const int middle = (first + last) / 2;
    if (is_selected(forget, retain, falling[middle]))
      last = middle;
    else
      first = middle + 1;
  }
  return first;
}

}  // namespace potion
