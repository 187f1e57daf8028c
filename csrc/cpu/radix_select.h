// The values at given ranks among many ratios, without sorting them: a radix selection in three digits.
//
// The bits of non-negative floats, read as integers, are ordered as the floats are. A histogram of their first digit
// shows in which bin each rank lies, one of the second digit within those bins where in the bin, and one of the third
// its last bits. Ties cost nothing, and nothing is stored but counts.
#pragma once

#include <cstring>
#include <vector>

#include "cpu/ordered_blocks.h"

namespace potion {

struct Span {
  const float* forget;  // [count]
  const float* retain;  // [count]
  std::int64_t count;
};

// keys[i] is the bits of forget[i] / retain[i] without their sign. Returns whether any number has one.
bool ratio_keys(const float* forget, const float* retain, std::int64_t n, std::uint32_t* keys);

// A source has blocks(), first(block, worker), which each block is read with once, and span(block) for any further time.
template <typename Source>
class RadixSelect {
 public:
  RadixSelect(Source& source, int threads)
      : source_(source), workers_(std::clamp<std::int64_t>(source.blocks(), 1, std::max(threads, 1))) {
    const auto first = [&](std::int64_t block, std::int64_t worker) { return source.first(block, worker); };
    counts_ = histogram(1 << kFirst, first, [](std::uint32_t key, std::int64_t) -> std::int64_t { return key >> kFirstShift; });
    for (std::size_t bin = 0; bin < kInfinite >> kFirstShift; ++bin) finite_ += counts_[bin];
  }

  bool negative() const { return negative_; }
  std::int64_t finite() const { return finite_; }  // number of finite ratios

  // The values at ascending ranks in [0, finite()).
  std::vector<float> at(const std::vector<std::int64_t>& ranks) {
    std::vector<float> values(ranks.size());
    if (ranks.empty()) return values;
    std::vector<Place> places(ranks.size());
    for (std::size_t i = 0; i < ranks.size(); ++i) places[i] = {0, ranks[i], 0};
    const std::vector<std::int32_t> first = descend(counts_, kFirst, places);
    const auto second_bin = [&](std::uint32_t key) {
      const std::int64_t row = first[key >> kFirstShift];
      return row < 0 ? row : row << kSecond | (key >> kThird & ((1 << kSecond) - 1));
    };
    // Where few keys share their first digit with a rank they are put aside, and the source is not read a third time.
    std::int64_t near = 0;
    for (std::size_t bin = 0; bin < first.size(); ++bin) near += first[bin] < 0 ? 0 : counts_[bin];
    const bool few = near <= kMostAside;
    std::vector<Aside> aside;
    for (std::int64_t i = 0; i < workers_; ++i) aside.emplace_back(few ? near : 0);
    const auto again = [&](std::int64_t block, std::int64_t) { return source_.span(block); };
    std::vector<std::int64_t> counts =
        histogram(rows_ << kSecond, again, [&](std::uint32_t key, std::int64_t worker) {
          const std::int64_t bin = second_bin(key);
          if (few && bin >= 0) aside[worker].add(key);
          return bin;
        });
    const std::vector<std::int32_t> second = descend(counts, kSecond, places);
    const auto third_bin = [&](std::uint32_t key, std::int64_t) {
      const std::int64_t bin = second_bin(key);
      const std::int64_t row = bin < 0 ? bin : second[bin];
      return row < 0 ? row : row << kThird | (key & ((1 << kThird) - 1));
    };
    if (few) {
      counts.assign(rows_ << kThird, 0);
      for (const Aside& keys : aside)
        for (std::int64_t i = 0; i < keys.count; ++i)
          if (const std::int64_t bin = third_bin(keys.keys.get()[i], 0); bin >= 0) ++counts[bin];
    } else {
      counts = histogram(rows_ << kThird, again, third_bin);
    }
    descend(counts, kThird, places);
    for (std::size_t i = 0; i < ranks.size(); ++i) std::memcpy(&values[i], &places[i].key, sizeof(float));
    return values;
  }

 private:
  // Bits of each digit: exponent and 8 bits first, so that few numbers share a bin with a rank.
  static constexpr int kFirst = 16, kSecond = 8, kThird = 7, kFirstShift = kSecond + kThird;
  static constexpr std::uint32_t kInfinite = 0x7f800000;  // its bits and those above are not finite
  static constexpr std::int64_t kChunk = 2048;            // keys on the stack

  static constexpr std::int64_t kMostAside = 1 << 20;

  struct Aside {
    Scratch<std::uint32_t> keys;
    std::int64_t count = 0;
    explicit Aside(std::int64_t most) : keys(most) {}
    void add(std::uint32_t key) { keys.get()[count++] = key; }
  };

  struct Place {
    std::uint32_t key;  // its digits so far
    std::int64_t rank;  // among the keys with these digits
    std::int64_t row;   // of the histogram that tells the next digit
  };

  // Counts of bin(key, worker) over all blocks, as `load` gives them; bins below 0 do not count.
  template <typename Load, typename Bin>
  std::vector<std::int64_t> histogram(std::size_t bins, const Load& load, const Bin& bin) {
    const std::int64_t blocks = source_.blocks();
    std::vector<std::vector<std::int64_t>> counts(workers_, std::vector<std::int64_t>(bins));
    std::atomic<std::int64_t> next{0};
    std::atomic<bool> negative{false};
    run_on_threads(workers_, [&](std::int64_t worker) {
      std::int64_t* own = counts[worker].data();
      std::uint32_t keys[kChunk];
      for (std::int64_t block; (block = next.fetch_add(1)) < blocks;) {
        const Span span = load(block, worker);
        for (std::int64_t start = 0; start < span.count; start += kChunk) {
          const std::int64_t n = std::min(kChunk, span.count - start);
          if (ratio_keys(span.forget + start, span.retain + start, n, keys)) negative = true;
          for (std::int64_t i = 0; i < n; ++i)
            if (const std::int64_t place = bin(keys[i], worker); place >= 0) ++own[place];
        }
      }
    });
    negative_ = negative_ || negative;
    for (std::int64_t worker = 1; worker < workers_; ++worker)
      for (std::size_t i = 0; i < bins; ++i) counts[0][i] += counts[worker][i];
    return std::move(counts[0]);
  }

  // Finds every place's next digit, of so many bits. Returns, for each bin of the histogram, the row of the next one
  // that tells its keys apart, or -1 for a bin without a place.
  std::vector<std::int32_t> descend(const std::vector<std::int64_t>& counts, int bits, std::vector<Place>& places) {
    std::vector<std::int32_t> row_of(counts.size(), -1);
    std::int32_t rows = 0;
    std::int64_t row = -1, bin = 0, passed = 0;  // keys of this row in the bins before this one
    for (Place& place : places) {                // ascending, so that the search goes on from the last one's bin
      if (place.row != row) row = place.row, bin = row << bits, passed = 0;
      while (place.rank - passed >= counts[bin]) passed += counts[bin++];
      if (row_of[bin] < 0) row_of[bin] = rows++;
      const auto digit = static_cast<std::uint32_t>(bin & ((1 << bits) - 1));
      place = {place.key << bits | digit, place.rank - passed, row_of[bin]};
    }
    rows_ = rows;
    return row_of;
  }

  Source& source_;
  std::int64_t workers_;
  bool negative_ = false;
  std::vector<std::int64_t> counts_;  // of the first digit
  std::int64_t finite_ = 0;
  std::size_t rows_ = 0;  // of the next histogram
};

}  // namespace potion
