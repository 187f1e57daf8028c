// What the kernels compute for one parameter, shared by the CPU and the GPU so that the CPU tests vouch for both.
//
// The order of the operations is part of the definition: every product and quotient is rounded on its own (the build
// forbids fma and fast-math), so the results equal those of potion_fast/ops/reference.py in every bit. The one exception
// is the sign and the payload of a NaN, which hardware chooses.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define POTION_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define POTION_INLINE __forceinline
#else
#define POTION_INLINE inline __attribute__((always_inline))  // into functions compiled for AVX2 as well
#endif

namespace potion {

// |g| (eq. 3 and 4) or g² (eq. 1).
template <bool square, typename T>
POTION_INLINE T magnitude(T gradient) {
  if constexpr (square) return gradient * gradient;
  return std::fabs(gradient);
}

// Ω_f > α · Ω_r. The product decides, not the ratio: 0/0 is never selected, x/0 always is.
POTION_INLINE bool is_selected(float forget, float retain, float alpha) { return forget > alpha * retain; }

// λ · Ω_r / Ω_f < 1, for numbers that are not negative: the quotient is rounded to 1 only if it is 1 or more.
POTION_INLINE bool is_lowered(float forget, float retain, float dampening) { return dampening * retain < forget; }

// θ · min(λ · Ω_r / Ω_f, 1). A NaN factor stays NaN, as torch.clamp has it.
POTION_INLINE float dampened(float weight, float forget, float retain, float dampening) {
  const float factor = dampening * retain / forget;
  return weight * (factor > 1.0f ? 1.0f : factor);
}

}  // namespace potion
