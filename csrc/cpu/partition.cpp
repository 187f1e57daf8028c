// Groups of weights by the first candidate that selects them: a stable counting sort. Two passes, one that counts each
// block's weights of each group and one that writes them to where they belong, over the arrays (16 bytes per parameter)
// or over what `select` kept of them. Candidates are few and weights that pass the least of them are fewer, so each of
// those is compared with every α; there is nothing to divide. A block is sorted in the cache, so that its part of a group
// is written in one go.
#include <cmath>
#include <numeric>
#include <utility>

#include "arguments.h"
#include "cpu/huge_pages.h"
#include "cpu/survivors.h"
#include "elementwise.h"

namespace potion {
namespace {

constexpr std::int64_t kChunk = 512;  // weights that are compared with every α while they are in the first cache

struct View {
  const std::uint16_t* places;  // [span.count], within the block
  Span span;
};

// groups[i] is the first candidate, by falling α, that selects weight i, or their number for a weight that none changes.
POTION_INLINE void find_groups(const float* f, const float* r, std::int64_t n, const Candidates& candidates,
                               std::int32_t* groups) {
  const auto count = static_cast<std::int32_t>(candidates.count);
  const float* alphas = candidates.alphas;
  for (std::int64_t i = 0; i < n; ++i) groups[i] = count;
  std::int32_t k = 0;
  for (; k + 4 <= count; k += 4) {
    const float a = alphas[k], b = alphas[k + 1], c = alphas[k + 2], d = alphas[k + 3];
    for (std::int64_t i = 0; i < n; ++i)
      groups[i] -= is_selected(f[i], r[i], a) + is_selected(f[i], r[i], b) + is_selected(f[i], r[i], c) +
                   is_selected(f[i], r[i], d);
  }
  for (; k < count; ++k)
    for (std::int64_t i = 0; i < n; ++i) groups[i] -= is_selected(f[i], r[i], alphas[k]);
  const float dampening = candidates.dampening;
  for (std::int64_t i = 0; i < n; ++i) groups[i] = is_lowered(f[i], r[i], dampening) ? groups[i] : count;
}

void find_groups_baseline(const float* f, const float* r, std::int64_t n, const Candidates& candidates,
                          std::int32_t* groups) {
  find_groups(f, r, n, candidates, groups);
}

#if POTION_HAS_AVX2
POTION_AVX2 void find_groups_avx2(const float* f, const float* r, std::int64_t n, const Candidates& candidates,
                                  std::int32_t* groups) {
  find_groups(f, r, n, candidates, groups);
}
#endif

// What a worker needs for a block.
struct Worker {
  CompactScratch kept, sorted;
  Scratch<std::int32_t> groups{kSelectBlock};
  std::vector<std::int64_t> counts, places;  // [K + 1]: weights of each group, and of none; where the next one belongs
  explicit Worker(std::int64_t K) : counts(K + 1), places(K + 1) {}

  void count(const View& view, const Candidates& candidates) {
    auto* find = &find_groups_baseline;
#if POTION_HAS_AVX2
    if (use_avx2()) find = &find_groups_avx2;
#endif
    std::fill(counts.begin(), counts.end(), 0);
    for (std::int64_t first = 0; first < view.span.count; first += kChunk) {
      const std::int64_t n = std::min(kChunk, view.span.count - first);
      std::int32_t* const own = groups.get() + first;
      find(view.span.forget + first, view.span.retain + first, n, candidates, own);
      for (std::int64_t i = 0; i < n; ++i) ++counts[own[i]];
    }
  }

  // What was counted, by group.
  View sort(const View& view) {
    std::exclusive_scan(counts.begin(), counts.end(), places.begin(), std::int64_t{0});
    for (std::int64_t i = 0; i < view.span.count; ++i) {
      const std::int64_t place = places[groups.get()[i]]++;
      sorted.places()[place] = view.places[i];
      sorted.forget()[place] = view.span.forget[i];
      sorted.retain()[place] = view.span.retain[i];
    }
    return {sorted.places(), {sorted.forget(), sorted.retain(), view.span.count}};
  }
};

// What `select` kept, sorted where it lies once it has been counted.
class Chosen {
 public:
  explicit Chosen(const Survivors& survivors) : survivors_(survivors) {}
  bool count(std::int64_t block, const Candidates& candidates, Worker& worker) const {
    const View view = sorted(block, candidates, worker);
    worker.count(view, candidates);
    const View by_group = worker.sort(view);
    const std::int64_t begin = survivors_.parts[2 * block];
    std::copy_n(by_group.places, view.span.count, survivors_.places + begin);
    std::copy_n(by_group.span.forget, view.span.count, survivors_.forget + begin);
    std::copy_n(by_group.span.retain, view.span.count, survivors_.retain + begin);
    return true;
  }
  View sorted(std::int64_t block, const Candidates&, Worker&) const {
    return {survivors_.places + survivors_.parts[2 * block], survivors_of(survivors_, block)};
  }

 private:
  Survivors survivors_;
};

// The arrays, of which what may be in a group is kept each time.
class Filtered {
 public:
  Filtered(const Arrays& arrays, const Candidates& candidates) : arrays_(arrays), compaction_(best_compaction()) {
    // Both products are monotone in their factor, so f ≥ RN(max(α, λ) · r) where f is above RN(α · r) and RN(λ · r).
    const float least = candidates.alphas[candidates.count - 1];
    bound_ = std::isnan(least) ? least : std::max(least, candidates.dampening);
  }
  // False where there is a sign bit.
  bool count(std::int64_t block, const Candidates& candidates, Worker& worker) const {
    bool negative = false;
    worker.count(load(block, worker, negative), candidates);
    return !negative;
  }
  View sorted(std::int64_t block, const Candidates& candidates, Worker& worker) const {
    bool negative = false;
    const View view = load(block, worker, negative);
    worker.count(view, candidates);
    return worker.sort(view);
  }

 private:
  View load(std::int64_t block, const Worker& worker, bool& negative) const {
    const CompactScratch& own = worker.kept;
    const Span span = arrays_.span(block);
    const KeptBlock kept =
        compaction_(span.forget, span.retain, span.count, bound_, own.places(), own.forget(), own.retain());
    negative = kept.negative;
    return {own.places(), {own.forget(), own.retain(), kept.count}};
  }

  Arrays arrays_;
  Compaction compaction_;
  float bound_;
};

// each(block, worker) for every block.
template <typename Each>
void for_blocks(std::int64_t n, std::int64_t K, int threads, const Each& each) {
  std::vector<Worker> workers;
  const std::int64_t count = select_workers(n, threads), blocks = select_blocks(n);
  workers.reserve(count);
  for (std::int64_t i = 0; i < count; ++i) workers.emplace_back(K);
  std::atomic<std::int64_t> next{0};
  run_on_threads(count, [&](std::int64_t i) {
    for (std::int64_t block; (block = next.fetch_add(1)) < blocks;) each(block, workers[i]);
  });
}

template <typename Source>
bool count_groups(const Source& source, std::int64_t n, const Candidates& candidates, std::int64_t* table,
                  std::int64_t* starts, int threads) {
  const std::int64_t blocks = select_blocks(n), K = candidates.count;
  std::atomic<bool> fits{true};
  for_blocks(n, K, threads, [&](std::int64_t block, Worker& worker) {
    if (!source.count(block, candidates, worker)) fits = false;
    std::copy_n(worker.counts.begin(), K, table + block * K);
  });
  // From counts to places: group by group, and in it block by block.
  std::int64_t place = 0;
  for (std::int64_t k = 0; k < K; ++k) {
    starts[k] = place;
    for (std::int64_t block = 0; block < blocks; ++block) place += std::exchange(table[block * K + k], place);
  }
  starts[K] = place;
  return fits;
}

template <typename Source, typename Index>
void write_groups(const Source& source, std::int64_t n, const Candidates& candidates, const std::int64_t* table,
                  const std::int64_t* starts, Index* index, float* forget, float* retain, int threads) {
  const std::int64_t blocks = select_blocks(n), K = candidates.count;
  prefer_huge_pages(index, starts[K]);
  prefer_huge_pages(forget, starts[K]);
  prefer_huge_pages(retain, starts[K]);
  for_blocks(n, K, threads, [&](std::int64_t block, Worker& worker) {
    const View view = source.sorted(block, candidates, worker);
    const std::int64_t* const to = table + block * K;
    const std::int64_t* const end = block + 1 < blocks ? to + K : starts + 1;
    for (std::int64_t k = 0, from = 0; k < K; from += end[k] - to[k], ++k) {
      const std::int64_t count = end[k] - to[k];
      for (std::int64_t i = 0; i < count; ++i)
        index[to[k] + i] = static_cast<Index>(block * kSelectBlock + view.places[from + i]);
      std::copy_n(view.span.forget + from, count, forget + to[k]);
      std::copy_n(view.span.retain + from, count, retain + to[k]);
    }
  });
}

}  // namespace

bool count_groups_cpu(const float* forget, const float* retain, std::int64_t n, const Survivors* survivors,
                      const Candidates& candidates, std::int64_t* table, std::int64_t* starts, int threads) {
  if (survivors) return count_groups(Chosen(*survivors), n, candidates, table, starts, threads);
  return count_groups(Filtered({forget, retain, n}, candidates), n, candidates, table, starts, threads);
}

template <typename Index>
void write_groups_cpu(const float* forget, const float* retain, std::int64_t n, const Survivors* survivors,
                      const Candidates& candidates, const std::int64_t* table, const std::int64_t* starts,
                      Index* index, float* group_forget, float* group_retain, int threads) {
  if (survivors)
    write_groups(Chosen(*survivors), n, candidates, table, starts, index, group_forget, group_retain, threads);
  else
    write_groups(Filtered({forget, retain, n}, candidates), n, candidates, table, starts, index, group_forget,
                 group_retain, threads);
}
template void write_groups_cpu(const float*, const float*, std::int64_t, const Survivors*, const Candidates&,
                               const std::int64_t*, const std::int64_t*, std::int32_t*, float*, float*, int);
template void write_groups_cpu(const float*, const float*, std::int64_t, const Survivors*, const Candidates&,
                               const std::int64_t*, const std::int64_t*, std::int64_t*, float*, float*, int);

}  // namespace potion
