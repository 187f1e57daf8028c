// Compaction, in three instruction sets. No branch depends on what is kept: a few percent of the elements are, at random
// places, and every vector's are moved to its front and stored, over what the last one left behind.
#include "cpu/compact.h"

#include <array>
#include <atomic>
#include <cstring>
#include <limits>
#include <string>

#if POTION_HAS_AVX2
#include <immintrin.h>
#define POTION_COMPACT_AVX2 __attribute__((target("avx2,popcnt")))
#define POTION_COMPACT_AVX512 __attribute__((target("avx512f,popcnt")))
#endif

namespace potion {
namespace {

// A kept element needs no look at its ratio here. Of the others f/r is finite unless f is infinite or r is 0, or one of
// them NaN: a quotient that overflows is kept.
constexpr float kInfinity = std::numeric_limits<float>::infinity();

KeptBlock compact_baseline(const float* forget, const float* retain, std::int64_t n, float bound, std::uint16_t* places,
                        float* kept_forget, float* kept_retain) {
  KeptBlock block{};
  std::uint32_t signs = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float f = forget[i], r = retain[i];
    std::uint32_t bits[2];
    std::memcpy(bits, &f, 4);
    std::memcpy(bits + 1, &r, 4);
    signs |= bits[0] | bits[1];
    const bool kept = (f > 0.0f) & (f >= bound * r);
    block.invalid += (!kept) & (!(f < kInfinity) | !(r > 0.0f));
    places[block.count] = static_cast<std::uint16_t>(i);
    kept_forget[block.count] = f;
    kept_retain[block.count] = r;
    block.count += kept;
  }
  block.negative = signs >> 31;
  return block;
}

#if POTION_HAS_AVX2

// For every set of 8 lanes, the permutation that moves them to the front.
constexpr std::array<std::array<std::int32_t, 8>, 256> fronts() {
  std::array<std::array<std::int32_t, 8>, 256> orders{};
  for (int set = 0; set < 256; ++set)
    for (int lane = 0, front = 0; lane < 8; ++lane)
      if (set >> lane & 1) orders[set][front++] = lane;
  return orders;
}
alignas(32) constexpr auto kFronts = fronts();

POTION_COMPACT_AVX2 KeptBlock compact_avx2(const float* forget, const float* retain, std::int64_t n, float bound,
                                     std::uint16_t* places, float* kept_forget, float* kept_retain) {
  KeptBlock block{};
  const __m256 bounds = _mm256_set1_ps(bound), zero = _mm256_setzero_ps();
  __m256 signs = zero;
  __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  std::int64_t i = 0, count = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 f = _mm256_loadu_ps(forget + i), r = _mm256_loadu_ps(retain + i);
    signs = _mm256_or_ps(signs, _mm256_or_ps(f, r));
    const __m256 kept = _mm256_and_ps(_mm256_cmp_ps(f, zero, _CMP_GT_OQ),
                                      _mm256_cmp_ps(f, _mm256_mul_ps(bounds, r), _CMP_GE_OQ));
    const __m256 odd = _mm256_or_ps(_mm256_cmp_ps(f, _mm256_set1_ps(kInfinity), _CMP_NLT_UQ),
                                    _mm256_cmp_ps(r, zero, _CMP_NGT_UQ));
    const int set = _mm256_movemask_ps(kept);
    block.invalid += _mm_popcnt_u32(_mm256_movemask_ps(_mm256_andnot_ps(kept, odd)));
    const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kFronts[set].data()));
    const __m256i front = _mm256_permutevar8x32_epi32(place, order);
    _mm256_storeu_ps(kept_forget + count, _mm256_permutevar8x32_ps(f, order));
    _mm256_storeu_ps(kept_retain + count, _mm256_permutevar8x32_ps(r, order));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(places + count),
                     _mm_packus_epi32(_mm256_castsi256_si128(front), _mm256_extracti128_si256(front, 1)));
    count += _mm_popcnt_u32(set);
    place = _mm256_add_epi32(place, _mm256_set1_epi32(8));
  }
  const KeptBlock rest =
      compact_baseline(forget + i, retain + i, n - i, bound, places + count, kept_forget + count, kept_retain + count);
  for (std::int64_t j = count; j < count + rest.count; ++j) places[j] = static_cast<std::uint16_t>(places[j] + i);
  return {count + rest.count, block.invalid + rest.invalid, _mm256_movemask_ps(signs) != 0 || rest.negative};
}

POTION_COMPACT_AVX512 KeptBlock compact_avx512(const float* forget, const float* retain, std::int64_t n, float bound,
                                         std::uint16_t* places, float* kept_forget, float* kept_retain) {
  KeptBlock block{};
  const __m512 bounds = _mm512_set1_ps(bound), zero = _mm512_setzero_ps();
  __m512i signs = _mm512_setzero_si512();
  __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = n - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (n - i)) - 1);
    const __m512 f = _mm512_maskz_loadu_ps(lanes, forget + i), r = _mm512_maskz_loadu_ps(lanes, retain + i);
    signs = _mm512_or_si512(signs, _mm512_or_si512(_mm512_castps_si512(f), _mm512_castps_si512(r)));
    const __mmask16 kept = _mm512_cmp_ps_mask(f, zero, _CMP_GT_OQ) &
                           _mm512_cmp_ps_mask(f, _mm512_mul_ps(bounds, r), _CMP_GE_OQ);
    const __mmask16 odd = _mm512_cmp_ps_mask(f, _mm512_set1_ps(kInfinity), _CMP_NLT_UQ) |
                          _mm512_cmp_ps_mask(r, zero, _CMP_NGT_UQ);
    block.invalid += _mm_popcnt_u32(odd & lanes & ~kept);
    // Compressed in a register: to compress into memory is slow on some machines.
    _mm512_storeu_ps(kept_forget + block.count, _mm512_maskz_compress_ps(kept, f));
    _mm512_storeu_ps(kept_retain + block.count, _mm512_maskz_compress_ps(kept, r));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(places + block.count),
                        _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(kept, place)));
    block.count += _mm_popcnt_u32(kept);
    place = _mm512_add_epi32(place, _mm512_set1_epi32(16));
  }
  block.negative = _mm512_cmplt_epi32_mask(signs, _mm512_setzero_si512()) != 0;
  return block;
}

#endif

enum Level { kBaseline, kAvx2, kAvx512 };

Level supported() {
#if POTION_HAS_AVX2
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("popcnt")) return kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) return kAvx2;
#endif
  return kBaseline;
}

std::atomic<Level> limit{kAvx512};

Level level() {
  static const Level best = supported();
  return std::min(best, limit.load());
}

}  // namespace

Compaction best_compaction() {
#if POTION_HAS_AVX2
  if (level() == kAvx512) return &compact_avx512;
  if (level() == kAvx2) return &compact_avx2;
#endif
  return &compact_baseline;
}

const char* select_instructions() {
  return level() == kAvx512 ? "AVX-512" : level() == kAvx2 ? "AVX2" : "baseline";
}

void limit_select_instructions(const std::string& most) {
  limit = most == "baseline" ? kBaseline : most == "AVX2" ? kAvx2 : kAvx512;
}

}  // namespace potion
