// What the products need from an instruction set: loops over one tile of outputs, compiled once per set.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace potion {

// Rows that are multiplied at one go: some whole terms (samples, or groups of them), or a part of one.
template <typename T>
struct Chunk {
  std::int64_t terms;
  std::int64_t rows;           // of each term
  bool begins, ends;           // whether its terms begin, and end, in this chunk
  bool square;
  std::int64_t K;
  std::int64_t total_stride;   // numbers between the totals of k and of k + 1
  const T* weights;            // [K] of stride `weight_stride`, at the chunk's first term; or null for ones
  std::int64_t weight_stride;
};

template <typename T>
using Multiply = void (*)(const Chunk<T>&, const T* a, const T* g, std::uintptr_t ahead, std::int64_t ahead_stride,
                          T* partial, T* totals);

template <typename T>
using Pack = void (*)(const T* from, std::int64_t from_stride, std::int64_t rows, const std::int64_t* begins,
                      std::int64_t panels, T* to, std::int64_t stride);

constexpr int kMostTileRows = 14;

template <typename T>
struct Tiles {
  const char* instructions;
  int rows;   // of a tile, at most
  int panel_width;  // numbers from one row of a packed panel of G to the next
  int lanes;  // numbers of a vector; a tile is one or two vectors wide
  Multiply<T> multiply[2][kMostTileRows];  // [vectors - 1][rows - 1]

  // to[r][i] = from[r][i]
  void (*copy_rows)(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride, std::int64_t rows,
                    std::int64_t width);
  // Panel p gets the columns [begins[p], begins[p + 1]) of a matrix, at to + p · stride, row by row.
  Pack<T> pack_gradients, pack_inputs;
  // sums[o] += Σ_r g[r][o]
  void (*add_columns)(const T* g, std::int64_t stride, std::int64_t rows, T* sums, std::int64_t width);
  // acc[c] += Σ_r g[r][c] · a[r][c]
  void (*correlate)(const T* g, std::int64_t g_stride, const T* a, std::int64_t a_stride, std::int64_t rows, T* acc,
                    std::int64_t width);
};

template <typename T>
const Tiles<T>& tiles_portable();
#if POTION_HAS_AVX2
template <typename T>
const Tiles<T>& tiles_avx2();
template <typename T>
const Tiles<T>& tiles_avx512();
#endif

// The best of them that this machine runs and `limit_product_instructions` allows.
template <typename T>
const Tiles<T>& tiles();

}  // namespace potion
