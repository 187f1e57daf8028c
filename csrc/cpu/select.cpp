// Percentiles of forget / retain. A sample gives a lower bound of all that are wanted; one pass over the arrays keeps
// what lies above it, a few percent; the ranks are found among those. 8 bytes per parameter are read. Where the bound
// turns out too high, or too much is wanted, the ranks are found in the arrays: 24 bytes per parameter, no buffer.
#include <cmath>
#include <limits>

#include "arguments.h"
#include "cpu/huge_pages.h"
#include "cpu/ordered_blocks.h"
#include "cpu/survivors.h"
#include "elementwise.h"
#include "ratios.h"

namespace potion {
namespace {

constexpr int kFewestSampleBits = 13, kMostSampleBits = 16;  // samples: n / 256, as a power of two
constexpr std::int64_t kSmall = 1 << 17;  // elements that need no bound
constexpr std::int64_t kMostKept = 12;    // at most n / kMostKept survivors

std::uint64_t hash(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

void prefetch(const float* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#else
  static_cast<void>(address);
#endif
}

// A source that reads each block of the arrays once, and from then on has what was kept of it.
class Filter {
 public:
  Filter(const Arrays& arrays, float bound, const Survivors& survivors, int threads)
      : arrays_(arrays), survivors_(survivors), compaction_(best_compaction()), scratch_(select_workers(arrays.n, threads)) {
    // A ratio is at least `bound` only if f/r ≥ bound · (1 − 2⁻²⁴), so the product with a number that is less, rounded
    // as it may be, is not above f.
    least_ = bound_below(bound);
    prefer_huge_pages(survivors.places, survivors.capacity);
    prefer_huge_pages(survivors.forget, survivors.capacity);
    prefer_huge_pages(survivors.retain, survivors.capacity);
  }

  std::int64_t blocks() const { return arrays_.blocks(); }
  Span first(std::int64_t block, std::int64_t worker) {
    if (negative_ || full_) return {};
    const CompactScratch& own = scratch_[worker];
    const Span span = arrays_.span(block);
    const KeptBlock kept =
        compaction_(span.forget, span.retain, span.count, least_, own.places(), own.forget(), own.retain());
    const std::int64_t begin = used_.fetch_add(kept.count);
    if (kept.negative) negative_ = true;
    if (begin + kept.count > survivors_.capacity) {
      full_ = true;
      return {};
    }
    invalid_ += kept.invalid;
    survivors_.parts[2 * block] = begin;
    survivors_.parts[2 * block + 1] = kept.count;
    std::copy_n(own.places(), kept.count, survivors_.places + begin);
    std::copy_n(own.forget(), kept.count, survivors_.forget + begin);
    std::copy_n(own.retain(), kept.count, survivors_.retain + begin);
    return {own.forget(), own.retain(), kept.count};
  }
  Span span(std::int64_t block) const { return survivors_of(survivors_, block); }

  bool negative() const { return negative_; }
  bool full() const { return full_; }
  std::int64_t below() const { return arrays_.n - used_ - invalid_; }  // finite ratios that were not kept

 private:
  Arrays arrays_;
  Survivors survivors_;
  Compaction compaction_;
  float least_;
  std::vector<CompactScratch> scratch_;
  std::atomic<std::int64_t> used_{0}, invalid_{0};
  std::atomic<bool> negative_{false}, full_{false};
};

// The percentiles over `below` zeros and what a source has. False where a rank falls below the source though what lies
// there is not zeros, or below `bound`, down to which the source is complete.
template <typename Source>
bool interpolate(RadixSelect<Source>& source, std::int64_t below, bool zeros, float bound,
                 const std::vector<double>& percentiles, float* alphas) {
  const std::int64_t finite = below + source.finite();
  if (finite == 0) {
    std::fill_n(alphas, percentiles.size(), std::numeric_limits<float>::quiet_NaN());
    return true;
  }
  std::vector<std::int64_t> ranks;  // in the source
  for (const double p : percentiles) {
    const std::int64_t low = rank_of(p / 100, finite).low;
    for (const std::int64_t rank : {low, std::min(low + 1, finite - 1)})
      if (rank >= below) ranks.push_back(rank - below);
      else if (!zeros) return false;
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  const std::vector<float> values = source.at(ranks);
  if (!values.empty() && values[0] < bound) return false;
  const auto at = [&](std::int64_t rank) {
    return rank < below ? 0.0f : values[std::lower_bound(ranks.begin(), ranks.end(), rank - below) - ranks.begin()];
  };
  for (std::size_t k = 0; k < percentiles.size(); ++k) {
    const Rank rank = rank_of(percentiles[k] / 100, finite);
    alphas[k] = interpolated(at(rank.low), at(std::min(rank.low + 1, finite - 1)), rank.weight);
  }
  return true;
}

POTION_INLINE bool ratio_keys_of(const float* forget, const float* retain, std::int64_t n, std::uint32_t* keys) {
  std::uint32_t signs = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float ratio = forget[i] / retain[i];
    std::uint32_t f, r, key;
    std::memcpy(&f, forget + i, 4);
    std::memcpy(&r, retain + i, 4);
    std::memcpy(&key, &ratio, 4);
    keys[i] = key & 0x7fffffff;
    signs |= f | r;
  }
  return signs >> 31;
}

bool ratio_keys_baseline(const float* forget, const float* retain, std::int64_t n, std::uint32_t* keys) {
  return ratio_keys_of(forget, retain, n, keys);
}

#if POTION_HAS_AVX2
POTION_AVX2 bool ratio_keys_avx2(const float* forget, const float* retain, std::int64_t n, std::uint32_t* keys) {
  return ratio_keys_of(forget, retain, n, keys);
}
#endif

}  // namespace

bool ratio_keys(const float* forget, const float* retain, std::int64_t n, std::uint32_t* keys) {
#if POTION_HAS_AVX2
  if (use_avx2()) return ratio_keys_avx2(forget, retain, n, keys);
#endif
  return ratio_keys_baseline(forget, retain, n, keys);
}

// Distribution-free: the sample's quantile less six standard deviations lies above the true one once in 10⁹ times, if
// the sample is random; it is one element at a hashed place of each of as many stretches.
Bound select_bound_cpu(const float* forget, const float* retain, std::int64_t n, double lowest) {
  if (n < kSmall) return {0, n};
  int bits = kFewestSampleBits;
  while (bits < kMostSampleBits && n >> (bits + 9) > 0) ++bits;
  const std::int64_t samples = std::int64_t{1} << bits;
  std::vector<float> ratios;  // finite
  ratios.reserve(samples);
  std::int64_t infinite = 0;
  constexpr std::int64_t kBatch = 64;  // their cache misses overlap
  for (std::int64_t first = 0; first < samples; first += kBatch) {
    std::int64_t places[kBatch];
    for (std::int64_t i = first; i < first + kBatch; ++i) {
      const std::int64_t begin = n * i >> bits, width = (n * (i + 1) >> bits) - begin;
      const std::int64_t place = begin + static_cast<std::int64_t>((hash(i) >> 40) * width >> 24);
      prefetch(forget + place);
      prefetch(retain + place);
      places[i - first] = place;
    }
    for (const std::int64_t place : places) {
      const float ratio = forget[place] / retain[place];
      if (std::isfinite(ratio)) ratios.push_back(ratio);
      infinite += std::isinf(ratio);
    }
  }
  const double count = static_cast<double>(ratios.size()), q = lowest / 100;
  const auto place = static_cast<std::int64_t>(count * q - 6 * std::sqrt(count * q * (1 - q)) - 2);
  float bound = 0;
  if (place > 0) {
    std::nth_element(ratios.begin(), ratios.begin() + place, ratios.end());
    bound = ratios[place];
  }
  if (bound < std::numeric_limits<float>::min()) bound = 0;  // a quotient that is subnormal may be far from exact
  double kept = static_cast<double>(infinite);
  for (const float ratio : ratios) kept += bound > 0 ? ratio >= bound : ratio > 0;
  if (kept * kMostKept > static_cast<double>(samples)) return {0, 0};
  const double most = (kept + 6 * std::sqrt(kept) + 16) / static_cast<double>(samples);
  return {bound, std::min(n, static_cast<std::int64_t>(most * static_cast<double>(n)))};
}

Selected select_kept_cpu(const float* forget, const float* retain, std::int64_t n, float bound,
                         const std::vector<double>& percentiles, const Survivors& survivors, float* alphas,
                         int threads) {
  Filter filter({forget, retain, n}, bound, survivors, threads);
  RadixSelect<Filter> ranks(filter, threads);
  if (filter.negative()) return Selected::kNegative;
  if (filter.full()) return Selected::kMissed;
  return interpolate(ranks, filter.below(), bound == 0, bound, percentiles, alphas) ? Selected::kDone
                                                                                    : Selected::kMissed;
}

Selected select_all_cpu(const float* forget, const float* retain, std::int64_t n,
                        const std::vector<double>& percentiles, float* alphas, int threads) {
  Arrays arrays{forget, retain, n};
  RadixSelect<Arrays> ranks(arrays, threads);
  if (ranks.negative()) return Selected::kNegative;
  interpolate(ranks, 0, false, 0, percentiles, alphas);
  return Selected::kDone;
}

}  // namespace potion
