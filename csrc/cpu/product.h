// sums[k][o][i] += Σ_n w[k][n] · |Σ_t G[n][t][o] · A[n][t][i]|: what accumulate_linear and accumulate_conv share.
//
// The products are those of the ordinary weight gradient and are blocked like a matrix product: panels of G and A are
// packed so that the innermost loop (cpu/tile.h) reads them in order, and the totals of one block of outputs stay in
// the second-level cache while one thread goes through the terms n. Only the end of a term is new: its size is added
// to the totals instead of itself to the output. No gradient per term is ever stored.
#pragma once

#include <cmath>
#include <cstring>

#include "arguments.h"
#include "cpu/ordered_blocks.h"
#include "cpu/tiles.h"

namespace potion {

template <typename T>
struct Product {
  std::int64_t terms, rows;        // N, T
  std::int64_t outputs, columns;   // O, I: of one group
  std::int64_t groups;             // products of their own, side by side
  const T* gradients;              // [N · T, groups · O]
  const Totals& totals;
};

// How the outputs are cut into panels and blocks, and the terms into splits. The number of threads decides on the
// blocks only, not on the order in which anything is added, so the result does not depend on it.
struct Blocks {
  std::int64_t g_panels, g_blocks;  // panels of a group's outputs, at most `rows` of a tile high
  std::int64_t vectors, a_panels, a_blocks;  // panels of a group's columns, two vectors wide but for the last
  std::int64_t splits;              // of the terms
  std::int64_t chunk_rows;          // rows multiplied at one go, at most

  template <typename T>
  Blocks(const Product<T>& product, const Tiles<T>& tiles, int threads) {
    constexpr std::int64_t kChunkRows = 256;
    constexpr std::int64_t kOutputs = 512, kColumns = 1536 / sizeof(T);  // of a block, at most
    constexpr std::int64_t kPanels = 4;        // of a block each way, at least: a chunk is packed once per block
    constexpr std::int64_t kTasks = 16;        // of a small layer, by splits
    constexpr std::int64_t kSplitRows = 1024;  // of a split, at least: all its totals are added to the sums

    chunk_rows = kChunkRows;
    g_panels = ceil_divide(product.outputs, tiles.rows);
    vectors = ceil_divide(product.columns, tiles.lanes);
    a_panels = ceil_divide(vectors, 2);
    const std::int64_t most_g = std::max<std::int64_t>(1, g_panels / kPanels);
    const std::int64_t most_a = std::max<std::int64_t>(1, a_panels / kPanels);
    splits = std::min({product.terms, std::max<std::int64_t>(1, product.terms * product.rows / kSplitRows),
                       ceil_divide(kTasks, product.groups * most_g * most_a)});
    g_blocks = std::max<std::int64_t>(1, ceil_divide(g_panels * tiles.rows, kOutputs));
    a_blocks = std::max<std::int64_t>(1, ceil_divide(a_panels * 2 * tiles.lanes, kColumns));
    const std::int64_t wanted = threads > 1 ? 4 * threads : 1;  // tasks
    while (product.groups * g_blocks * a_blocks * splits < wanted && (g_blocks < most_g || a_blocks < most_a)) {
      if (g_blocks < most_g)
        g_blocks = std::min(2 * g_blocks, most_g);
      else
        a_blocks = std::min(2 * a_blocks, most_a);
    }
  }
};

// One block of outputs in one thread: its panels and its totals.
//
// Memory to be fetched in advance: one line per row. Integers, since it may end behind an array.
struct Ahead {
  std::uintptr_t address;
  std::int64_t stride;  // bytes
};

inline std::uintptr_t address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

// Columns says what A is:
//   reserve(columns)                       before the first of these: at most so many columns will be wanted at a time
//   begin(group, first, last, wide)        from now on columns [first, last) are wanted, in panels `wide` wide
//   pack(row, rows, panels, stride)        these, of rows n · T + t; row r of panel j begins at j · stride + r · wide
//   next(row, panel, line, rows)           where the pack after this one, from `row` on, will read
//   add(sum, total, o, height, first, width, total_stride)   the totals [height, width] from output o, column `first`
template <typename T, typename Columns>
class Worker {
 public:
  Worker(const Product<T>& product, const Tiles<T>& tiles, const Blocks& blocks, const Columns& columns)
      : p_(product),
        tiles_(tiles),
        blocks_(blocks),
        columns_(columns),
        height_(ceil_divide(blocks.g_panels, blocks.g_blocks) * tiles.rows),
        width_(2 * ceil_divide(blocks.a_panels, blocks.a_blocks) * tiles.lanes),
        K_(static_cast<std::int64_t>(product.totals.sums.size())),
        a_((blocks.chunk_rows + 1) * width_),
        g_(ceil_divide(blocks.g_panels, blocks.g_blocks) * g_stride()),
        partial_(height_ * width_),
        totals_(K_ * height_ * width_),
        bias_((K_ + 1) * height_),
        begins_(ceil_divide(blocks.g_panels, blocks.g_blocks) + 1) {
    columns_.reserve(width_);
  }

  // The totals of the terms of one split, for one block.
  void compute(std::int64_t block, std::int64_t split) {
    const std::int64_t a_block = block % blocks_.a_blocks, g_block = block / blocks_.a_blocks % blocks_.g_blocks;
    group_ = block / blocks_.a_blocks / blocks_.g_blocks;
    first_panel_ = part(blocks_.g_panels, blocks_.g_blocks, g_block);
    last_panel_ = part(blocks_.g_panels, blocks_.g_blocks, g_block + 1);
    o_begin_ = panel_begin(first_panel_);
    o_end_ = panel_begin(last_panel_);
    for (std::int64_t panel = first_panel_; panel <= last_panel_; ++panel)
      begins_[panel - first_panel_] = panel_begin(panel) - o_begin_;
    first_vector_ = 2 * part(blocks_.a_panels, blocks_.a_blocks, a_block);
    vectors_ = std::min(2 * part(blocks_.a_panels, blocks_.a_blocks, a_block + 1), blocks_.vectors) - first_vector_;
    with_bias_ = !p_.totals.bias.empty() && a_block == 0;
    std::memset(totals_.get(), 0, K_ * height_ * width_ * sizeof(T));
    std::memset(bias_.get(), 0, (K_ + 1) * height_ * sizeof(T));
    const std::int64_t first = first_vector_ * tiles_.lanes, last = first + vectors_ * tiles_.lanes;
    if (last > p_.columns)  // the vector that is not full
      std::memset(a_.get() + (vectors_ - 1) / 2 * panel_stride(), 0, panel_stride() * sizeof(T));
    columns_.begin(group_, first, last, 2 * tiles_.lanes);

    const T* weights = reinterpret_cast<const T*>(p_.totals.weights);
    const std::int64_t term_end = part(p_.terms, blocks_.splits, split + 1);
    const std::int64_t together = std::max<std::int64_t>(1, blocks_.chunk_rows / p_.rows);  // terms of a chunk
    const std::int64_t pieces = ceil_divide(p_.rows, blocks_.chunk_rows);                   // of a term
    for (std::int64_t term = part(p_.terms, blocks_.splits, split); term < term_end; term += together) {
      const std::int64_t terms = std::min(together, term_end - term);
      for (std::int64_t piece = 0; piece < pieces; ++piece) {
        const std::int64_t row = part(p_.rows, pieces, piece);
        const std::int64_t rows = part(p_.rows, pieces, piece + 1) - row;
        const Chunk<T> chunk{terms,        rows,         piece == 0, piece + 1 == pieces,
                             p_.totals.square,    K_,           height_ * width_,
                             weights ? weights + term : nullptr, p_.terms};
        multiply(chunk, term * p_.rows + row);
      }
    }
  }

  // Adds the totals to the sums.
  void add() const {
    for (std::int64_t k = 0; k < K_; ++k) {
      T* sum = reinterpret_cast<T*>(p_.totals.sums[k]);
      for (std::int64_t panel = first_panel_; panel < last_panel_; ++panel) {
        const std::int64_t o = panel_begin(panel), height = panel_begin(panel + 1) - o;
        for (std::int64_t vector = 0; vector < vectors_; vector += 2) {
          const std::int64_t width = std::min<std::int64_t>(2, vectors_ - vector) * tiles_.lanes;
          const std::int64_t i = (first_vector_ + vector) * tiles_.lanes;
          const T* total = totals_.get() + k * height_ * width_ + tile_offset(o, height, vector);
          columns_.add(sum, total, group_ * p_.outputs + o, height, i, std::min(width, p_.columns - i), width);
        }
      }
      if (with_bias_) {
        T* bias = reinterpret_cast<T*>(p_.totals.bias[k]) + group_ * p_.outputs;
        for (std::int64_t o = o_begin_; o < o_end_; ++o) bias[o] += bias_.get()[(k + 1) * height_ + o - o_begin_];
      }
    }
  }

 private:
  // Panels of one group are alike to one output, so that no tile is nearly empty.
  std::int64_t panel_begin(std::int64_t panel) const { return part(p_.outputs, blocks_.g_panels, panel); }
  std::int64_t g_stride() const { return (blocks_.chunk_rows + 1) * tiles_.panel_width; }
  std::int64_t panel_stride() const { return (blocks_.chunk_rows + 1) * 2 * tiles_.lanes; }
  std::int64_t tile_offset(std::int64_t o, std::int64_t height, std::int64_t vector) const {
    return (o - o_begin_) * vectors_ * tiles_.lanes + height * vector * tiles_.lanes;
  }

  void multiply(const Chunk<T>& chunk, std::int64_t row) {
    const std::int64_t rows = chunk.terms * chunk.rows, stride = p_.groups * p_.outputs;
    const T* gradients = p_.gradients + row * stride + group_ * p_.outputs;
    tiles_.pack_gradients(gradients + o_begin_, stride, rows, begins_.data(), last_panel_ - first_panel_, g_.get(),
                       g_stride());
    if (with_bias_) add_bias(chunk, gradients + o_begin_, stride);
    columns_.pack(row, rows, a_.get(), panel_stride());
    for (std::int64_t panel = first_panel_; panel < last_panel_; ++panel) {
      const std::int64_t o = panel_begin(panel), height = panel_begin(panel + 1) - o;
      const T* g = g_.get() + (panel - first_panel_) * g_stride();
      for (std::int64_t vector = 0; vector < vectors_; vector += 2) {
        const std::int64_t wide = std::min<std::int64_t>(2, vectors_ - vector);
        const std::int64_t tile = tile_offset(o, height, vector);
        const Ahead ahead = next(row + rows, panel - first_panel_, vector / 2, rows);
        tiles_.multiply[wide - 1][height - 1](chunk, a_.get() + vector / 2 * panel_stride(), g, ahead.address,
                                              ahead.stride, partial_.get() + tile, totals_.get() + tile);
      }
    }
  }

  // What the next chunk will read, a line of the cache for every row of a tile: without it a chunk would begin by
  // waiting for memory. The first column of tiles fetches gradients, the first two rows of them inputs.
  Ahead next(std::int64_t row, std::int64_t g_panel, std::int64_t a_panel, std::int64_t rows) const {
    const std::int64_t stride = p_.groups * p_.outputs;
    if (a_panel == 0 && g_panel != 1)
      return {address(p_.gradients) + (row * stride + group_ * p_.outputs + o_begin_ + begins_[g_panel]) * sizeof(T),
              stride * static_cast<std::int64_t>(sizeof(T))};
    if (g_panel < 2) return columns_.next(row, a_panel, g_panel, rows);
    return {address(p_.gradients), 0};
  }

  void add_bias(const Chunk<T>& chunk, const T* gradients, std::int64_t stride) {
    const std::int64_t n = o_end_ - o_begin_;
    T* sum = bias_.get();  // [height], then the totals [K, height]
    for (std::int64_t term = 0; term < chunk.terms; ++term) {
      tiles_.add_columns(gradients + term * chunk.rows * stride, stride, chunk.rows, sum, n);
      if (!chunk.ends) continue;
      for (std::int64_t k = 0; k < K_; ++k) {
        const T weight = chunk.weights ? chunk.weights[k * chunk.weight_stride + term] : T(1);
        T* total = bias_.get() + (k + 1) * height_;
        for (std::int64_t o = 0; o < n; ++o)
          total[o] += weight * (p_.totals.square ? sum[o] * sum[o] : std::fabs(sum[o]));
      }
      std::memset(sum, 0, n * sizeof(T));
    }
  }

  const Product<T>& p_;
  const Tiles<T>& tiles_;
  const Blocks& blocks_;
  Columns columns_;
  const std::int64_t height_, width_, K_;  // the largest block
  Scratch<T> a_, g_, partial_, totals_, bias_;
  std::vector<std::int64_t> begins_;  // of the block's panels, counted from its first output
  std::int64_t group_ = 0, first_panel_ = 0, last_panel_ = 0, o_begin_ = 0, o_end_ = 0;
  std::int64_t first_vector_ = 0, vectors_ = 0;
  bool with_bias_ = false;
};

template <typename T, typename Columns>
void multiply(const Product<T>& product, const Tiles<T>& tiles, const Columns& columns, int threads) {
  if (product.terms == 0 || product.rows == 0 || product.outputs == 0 || product.totals.sums.empty()) return;
  const Blocks blocks(product, tiles, threads);
  run_blocks(product.groups * blocks.g_blocks * blocks.a_blocks, blocks.splits, threads,
             [&] { return Worker<T, Columns>(product, tiles, blocks, columns); });
}

}  // namespace potion
