// Groups of weights by the first candidate that selects them: a stable counting sort. Two passes, one that counts each
// block's weights of each group and one that writes them to where they belong, over the arrays (16 bytes per parameter)
// or over what `select` kept of them. Candidates are few and weights that pass the least of them are fewer, so that each
// of those is compared with every α; there is nothing to divide.
#include <cmath>
#include <numeric>
#include <utility>

#include "cpu/pages.h"
#include "cpu/survivors.h"
#include "elementwise.h"
#include "kernels.h"

namespace potion {
namespace {

constexpr std::int64_t kChunk = 512;  // weights that are compared with every α while they are in the first cache

struct View {
  const std::uint16_t* places;  // [span.count], within the block
  Span span;
  bool negative;
};

// What `select` kept.
class Chosen {
 public:
  explicit Chosen(const Survivors& survivors) : survivors_(survivors) {}
  View load(std::int64_t block, std::int64_t) const {
    return {survivors_.places + survivors_.parts[2 * block], survivors_of(survivors_, block), false};
  }

 private:
  Survivors survivors_;
};

// The arrays, of which each worker keeps what may be in a group.
class Filtered {
 public:
  Filtered(const Arrays& arrays, const Candidates& candidates, std::int64_t workers)
      : arrays_(arrays), keep_(keep()), scratch_(workers) {
    // Both products are monotone in their factor, so f ≥ RN(max(α, λ) · o) where f is above RN(α · o) and RN(λ · o).
    const float least = candidates.alphas[candidates.count - 1];
    bound_ = std::isnan(least) ? least : std::max(least, candidates.dampening);
  }
  View load(std::int64_t block, std::int64_t worker) const {
    const KeepScratch& own = scratch_[worker];
    const Span span = arrays_.span(block);
    const KeptBlock kept =
        keep_(span.forget, span.retain, span.count, bound_, own.places(), own.forget(), own.retain());
    return {own.places(), {own.forget(), own.retain(), kept.count}, kept.negative};
  }

 private:
  Arrays arrays_;
  Keep keep_;
  float bound_;
  std::vector<KeepScratch> scratch_;
};

// groups[i] is the first candidate, by falling α, that selects weight i, or their number for a weight that none changes.
POTION_INLINE void find_groups(const float* f, const float* o, std::int64_t n, const Candidates& candidates,
                               std::int32_t* groups) {
  const auto count = static_cast<std::int32_t>(candidates.count);
  const float* alphas = candidates.alphas;
  for (std::int64_t i = 0; i < n; ++i) groups[i] = count;
  std::int32_t k = 0;
  for (; k + 4 <= count; k += 4) {
    const float a = alphas[k], b = alphas[k + 1], c = alphas[k + 2], d = alphas[k + 3];
    for (std::int64_t i = 0; i < n; ++i)
      groups[i] -= is_selected(f[i], o[i], a) + is_selected(f[i], o[i], b) + is_selected(f[i], o[i], c) +
                   is_selected(f[i], o[i], d);
  }
  for (; k < count; ++k)
    for (std::int64_t i = 0; i < n; ++i) groups[i] -= is_selected(f[i], o[i], alphas[k]);
  const float dampening = candidates.dampening;
  for (std::int64_t i = 0; i < n; ++i) groups[i] = is_lowered(f[i], o[i], dampening) ? groups[i] : count;
}

void find_groups_baseline(const float* f, const float* o, std::int64_t n, const Candidates& candidates,
                          std::int32_t* groups) {
  find_groups(f, o, n, candidates, groups);
}

#if POTION_HAS_AVX2
POTION_AVX2 void find_groups_avx2(const float* f, const float* o, std::int64_t n, const Candidates& candidates,
                                  std::int32_t* groups) {
  find_groups(f, o, n, candidates, groups);
}
#endif

// What a worker knows of one block.
struct Block {
  Scratch<std::int32_t> groups{kSelectBlock};
  std::vector<std::int64_t> counts;                  // [K + 1] weights of each group, and of none
  std::vector<std::int64_t> places;                  // [K + 1] of the next weight of each group within the block
  KeepScratch sorted;                                // its weights by group
  explicit Block(std::int64_t K) : counts(K + 1), places(K + 1) {}
};

template <typename Source>
View find_block(const Source& source, std::int64_t index, std::int64_t worker, const Candidates& candidates,
                Block& block) {
  auto* find = &find_groups_baseline;
#if POTION_HAS_AVX2
  if (use_avx2()) find = &find_groups_avx2;
#endif
  const View view = source.load(index, worker);
  std::int32_t* const groups = block.groups.get();
  std::fill(block.counts.begin(), block.counts.end(), 0);
  for (std::int64_t first = 0; first < view.span.count; first += kChunk) {
    const std::int64_t n = std::min(kChunk, view.span.count - first);
    find(view.span.forget + first, view.span.retain + first, n, candidates, groups + first);
    for (std::int64_t i = first; i < first + n; ++i) ++block.counts[groups[i]];
  }
  return view;
}

std::vector<Block> blocks_for(std::int64_t workers, std::int64_t K) {
  std::vector<Block> blocks;
  blocks.reserve(workers);
  for (std::int64_t i = 0; i < workers; ++i) blocks.emplace_back(K);
  return blocks;
}

template <typename Source>
bool count_groups(const Source& source, std::int64_t n, const Candidates& candidates, std::int64_t* table,
                  std::int64_t* starts, std::int64_t workers) {
  const std::int64_t blocks = select_blocks(n), K = candidates.count;
  std::vector<Block> own = blocks_for(workers, K);
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> negative{false};
  run_on_threads(workers, [&](std::int64_t worker) {
    for (std::int64_t block; (block = next.fetch_add(1)) < blocks;) {
      if (find_block(source, block, worker, candidates, own[worker]).negative) negative = true;
      std::copy_n(own[worker].counts.begin(), K, table + block * K);
    }
  });
  // From counts to places: group by group, and in it block by block.
  std::int64_t place = 0;
  for (std::int64_t k = 0; k < K; ++k) {
    starts[k] = place;
    for (std::int64_t block = 0; block < blocks; ++block)
      place += std::exchange(table[block * K + k], place);
  }
  starts[K] = place;
  return !negative;
}

// Each block is sorted in the cache first, so that a group's part of it is written in one go.
template <typename Source, typename Index>
void write_groups(const Source& source, std::int64_t n, const Candidates& candidates, const std::int64_t* table,
                  Index* index, float* forget, float* retain, std::int64_t workers) {
  const std::int64_t blocks = select_blocks(n), K = candidates.count;
  std::vector<Block> own = blocks_for(workers, K);
  std::atomic<std::int64_t> next{0};
  run_on_threads(workers, [&](std::int64_t worker) {
    Block& mine = own[worker];
    std::uint16_t* const places = mine.sorted.places();
    float* const f = mine.sorted.forget();
    float* const o = mine.sorted.retain();
    for (std::int64_t block; (block = next.fetch_add(1)) < blocks;) {
      const View view = find_block(source, block, worker, candidates, mine);
      const std::int32_t* const groups = mine.groups.get();
      std::exclusive_scan(mine.counts.begin(), mine.counts.end(), mine.places.begin(), std::int64_t{0});
      for (std::int64_t i = 0; i < view.span.count; ++i) {
        const std::int64_t place = mine.places[groups[i]]++;
        places[place] = view.places[i];
        f[place] = view.span.forget[i];
        o[place] = view.span.retain[i];
      }
      for (std::int64_t k = 0, from = 0; k < K; from += mine.counts[k++]) {
        const std::int64_t to = table[block * K + k], count = mine.counts[k];
        for (std::int64_t i = 0; i < count; ++i)
          index[to + i] = static_cast<Index>(block * kSelectBlock + places[from + i]);
        std::copy_n(f + from, count, forget + to);
        std::copy_n(o + from, count, retain + to);
      }
    }
  });
}

}  // namespace

bool count_groups_cpu(const float* forget, const float* retain, std::int64_t n, const Survivors* survivors,
                      const Candidates& candidates, std::int64_t* table, std::int64_t* starts, int threads) {
  const std::int64_t workers = select_workers(n, threads);
  if (survivors) return count_groups(Chosen(*survivors), n, candidates, table, starts, workers);
  return count_groups(Filtered({forget, retain, n}, candidates, workers), n, candidates, table, starts, workers);
}

template <typename Index>
void write_groups_cpu(const float* forget, const float* retain, std::int64_t n, const Survivors* survivors,
                      const Candidates& candidates, const std::int64_t* table, Index* index,
                      float* group_forget, float* group_retain, std::int64_t m, int threads) {
  const std::int64_t workers = select_workers(n, threads);
  prefer_large_pages(index, m);
  prefer_large_pages(group_forget, m);
  prefer_large_pages(group_retain, m);
  if (survivors)
    write_groups(Chosen(*survivors), n, candidates, table, index, group_forget, group_retain, workers);
  else
    write_groups(Filtered({forget, retain, n}, candidates, workers), n, candidates, table, index, group_forget,
                 group_retain, workers);
}
template void write_groups_cpu(const float*, const float*, std::int64_t, const Survivors*, const Candidates&,
                               const std::int64_t*, std::int32_t*, float*, float*, std::int64_t, int);
template void write_groups_cpu(const float*, const float*, std::int64_t, const Survivors*, const Candidates&,
                               const std::int64_t*, std::int64_t*, float*, float*, std::int64_t, int);

}  // namespace potion
