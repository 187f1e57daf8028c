// Where `select` and `partition` read importances from, block by block: the arrays, or what a first pass has kept.
#pragma once

#include "arguments.h"
#include "cpu/compact.h"
#include "cpu/ordered_blocks.h"
#include "cpu/radix_select.h"

namespace potion {

inline std::int64_t select_blocks(std::int64_t n) { return (n + kSelectBlock - 1) / kSelectBlock; }

// Memory for what a worker keeps of one block.
class CompactScratch {
 public:
  CompactScratch() : places_(kSize), numbers_(2 * kSize) {}
  std::uint16_t* places() const { return places_.get(); }
  float* forget() const { return numbers_.get(); }
  float* retain() const { return numbers_.get() + kSize; }

 private:
  static constexpr std::int64_t kSize = kSelectBlock + kCompactSlack;
  Scratch<std::uint16_t> places_;
  Scratch<float> numbers_;
};

inline std::int64_t select_workers(std::int64_t n, int threads) {
  return std::clamp<std::int64_t>(select_blocks(n), 1, std::max(threads, 1));
}

struct Arrays {
  const float* forget;  // [n]
  const float* retain;  // [n]
  std::int64_t n;

  std::int64_t blocks() const { return select_blocks(n); }
  Span first(std::int64_t block, std::int64_t) const { return span(block); }
  Span span(std::int64_t block) const {
    const std::int64_t begin = block * kSelectBlock;
    return {forget + begin, retain + begin, std::min(kSelectBlock, n - begin)};
  }
};

// What `select_kept_cpu` has kept of the arrays.
inline Span survivors_of(const Survivors& survivors, std::int64_t block) {
  const std::int64_t begin = survivors.parts[2 * block];
  return {survivors.forget + begin, survivors.retain + begin, survivors.parts[2 * block + 1]};
}

}  // namespace potion
