// The innermost loop of the products: one tile of outputs, G panel × A panel, in registers.
//
// Included by one file per instruction set, each of which first defines
//
//   POTION_TARGET   the attribute that lets a function use these instructions, and has it inlined where it can be
//   Vector<T>       `lanes` numbers: zero, load, store, broadcast, multiply_add(a, b, c) = a · b + c, add, multiply,
//                   abs
//   kTileRows       rows of a tile; it is up to two vectors wide
//
// in an unnamed namespace, so that no linker takes a function of one file for the same one of another.
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/tiles.h"

#if defined(__clang__)
#define POTION_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define POTION_UNROLL _Pragma("GCC unroll 32")
#else
#define POTION_UNROLL
#endif

namespace potion {
namespace {

inline void prefetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address, 0, 2);
#endif
}

// Numbers from one row of a packed panel of G to the next: whole vectors.
template <typename T>
constexpr int panel_width() {
  return (kTileRows + Vector<T>::lanes - 1) / Vector<T>::lanes * Vector<T>::lanes;
}

// acc[m][n] = Σ_row g[row][m] · a[row][n] of every term of the chunk, then its size into the totals.
template <typename T, int M, int N>
POTION_TARGET void multiply(const Chunk<T>& chunk,
                            const T* a,  // [terms · rows, 2 vectors]
                            const T* g,  // [terms · rows, panel_width]
                            std::uintptr_t ahead, std::int64_t ahead_stride,  // what the next chunk will read
                            T* partial,  // [M, N vectors], of a term that spans several chunks
                            T* totals) { // [K] of stride `total_stride`, each [M, N vectors]
  using V = Vector<T>;
  constexpr int L = V::lanes;
  for (std::int64_t term = 0; term < chunk.terms; ++term) {
    typename V::type acc[M][N];
    POTION_UNROLL for (int m = 0; m < M; ++m)
      POTION_UNROLL for (int n = 0; n < N; ++n) acc[m][n] = V::zero();
    for (std::int64_t row = 0; row < chunk.rows; ++row, a += 2 * L, g += panel_width<T>(), ahead += ahead_stride) {
      prefetch(reinterpret_cast<const void*>(ahead));
      typename V::type columns[N];
      POTION_UNROLL for (int n = 0; n < N; ++n) columns[n] = V::load(a + n * L);
      POTION_UNROLL for (int m = 0; m < M; ++m) {
        const typename V::type gradient = V::broadcast(g[m]);
        POTION_UNROLL for (int n = 0; n < N; ++n) acc[m][n] = V::multiply_add(gradient, columns[n], acc[m][n]);
      }
    }
    // The parts of a long sum start from zero, each on its own: less rounding than one chain of additions.
    if (!chunk.begins)
      POTION_UNROLL for (int m = 0; m < M; ++m)
        POTION_UNROLL for (int n = 0; n < N; ++n)
          acc[m][n] = V::add(acc[m][n], V::load(partial + (m * N + n) * L));
    if (!chunk.ends) {
      POTION_UNROLL for (int m = 0; m < M; ++m)
        POTION_UNROLL for (int n = 0; n < N; ++n) V::store(partial + (m * N + n) * L, acc[m][n]);
      continue;
    }
    POTION_UNROLL for (int m = 0; m < M; ++m)
      POTION_UNROLL for (int n = 0; n < N; ++n)
        acc[m][n] = chunk.square ? V::multiply(acc[m][n], acc[m][n]) : V::abs(acc[m][n]);
    for (std::int64_t k = 0; k < chunk.K; ++k) {
      T* total = totals + k * chunk.total_stride;
      const auto weight = V::broadcast(chunk.weights ? chunk.weights[k * chunk.weight_stride + term] : T(1));
      POTION_UNROLL for (int m = 0; m < M; ++m)
        POTION_UNROLL for (int n = 0; n < N; ++n) {
          T* at = total + (m * N + n) * L;
          V::store(at, V::multiply_add(weight, acc[m][n], V::load(at)));
        }
    }
  }
}

template <typename T, int N, int... rows>
constexpr void fill(Multiply<T>* table, std::integer_sequence<int, rows...>) {
  ((table[rows] = &multiply<T, rows + 1, N>), ...);
}

// to[row][i] = from[row][i].
template <typename T>
POTION_TARGET void copy_rows(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
                             std::int64_t rows, std::int64_t width) {
  using V = Vector<T>;
  constexpr int L = V::lanes;
  if (width == 2 * L) {
    for (; rows > 0; --rows, from += from_stride, to += to_stride) {
      V::store(to, V::load(from));
      V::store(to + L, V::load(from + L));
    }
  } else if (width >= L) {  // whole vectors, then the last one again where it overlaps
    for (; rows > 0; --rows, from += from_stride, to += to_stride) {
      for (std::int64_t i = 0; i + L < width; i += L) V::store(to + i, V::load(from + i));
      V::store(to + width - L, V::load(from + width - L));
    }
  } else {
    for (; rows > 0; --rows, from += from_stride, to += to_stride) {
      std::int64_t i = 0;
      for (; i + 4 <= width; i += 4) std::memcpy(to + i, from + i, 4 * sizeof(T));
      for (; i < width; ++i) to[i] = from[i];
    }
  }
}

// The panels of a matrix, row by row: panel p gets the columns from begins[p] on, as many as it is wide.
template <typename T, int W>
POTION_TARGET void pack_panels(const T* from, std::int64_t from_stride, std::int64_t rows, const std::int64_t* begins,
                               std::int64_t panels, T* to, std::int64_t stride) {
  using V = Vector<T>;
  constexpr int L = V::lanes;
  const std::int64_t width = begins[panels];
  for (std::int64_t row = 0; row < rows; ++row, from += from_stride, to += W) {
    const std::int64_t rest = (rows - 1 - row) * from_stride + width;  // nothing behind the last row is read
    T* panel = to;
    for (std::int64_t p = 0; p < panels; ++p, panel += stride) {
      const T* begin = from + begins[p];
      if (begins[p] + W <= rest)
        POTION_UNROLL for (int i = 0; i < W; i += L) V::store(panel + i, V::load(begin + i));
      else
        for (std::int64_t i = 0; i < begins[p + 1] - begins[p]; ++i) panel[i] = begin[i];
    }
  }
}

// sums[o] += Σ_row g[row][o], eight rows at a time first: about the rounding of a pairwise sum.
template <typename T>
POTION_TARGET void add_columns(const T* g, std::int64_t stride, std::int64_t rows, T* sums, std::int64_t width) {
  using V = Vector<T>;
  constexpr int L = V::lanes;
  std::int64_t o = 0;
  for (; o + L <= width; o += L) {
    auto total = V::zero();
    for (std::int64_t row = 0; row < rows; row += 8) {
      auto part = V::load(g + row * stride + o);
      for (std::int64_t next = row + 1; next < rows && next < row + 8; ++next)
        part = V::add(part, V::load(g + next * stride + o));
      total = V::add(total, part);
    }
    V::store(sums + o, V::add(V::load(sums + o), total));
  }
  for (; o < width; ++o) {
    T total = 0;
    for (std::int64_t row = 0; row < rows; row += 8) {
      T part = 0;
      for (std::int64_t next = row; next < rows && next < row + 8; ++next) part += g[next * stride + o];
      total += part;
    }
    sums[o] += total;
  }
}

// acc[c] += Σ_x g[x][c] · a[x][c], for the depthwise convolution.
template <typename T, int N>
POTION_TARGET void correlate_strip(const T* g, std::int64_t g_stride, const T* a, std::int64_t a_stride,
                                   std::int64_t rows, T* acc) {
  using V = Vector<T>;
  constexpr int L = V::lanes;
  typename V::type sums[N];
  POTION_UNROLL for (int n = 0; n < N; ++n) sums[n] = V::zero();
  for (std::int64_t row = 0; row < rows; ++row, g += g_stride, a += a_stride)
    POTION_UNROLL for (int n = 0; n < N; ++n)
      sums[n] = V::multiply_add(V::load(g + n * L), V::load(a + n * L), sums[n]);
  POTION_UNROLL for (int n = 0; n < N; ++n) V::store(acc + n * L, V::add(V::load(acc + n * L), sums[n]));
}

template <typename T>
POTION_TARGET void correlate(const T* g, std::int64_t g_stride, const T* a, std::int64_t a_stride, std::int64_t rows,
                             T* acc, std::int64_t width) {
  constexpr int L = Vector<T>::lanes;
  std::int64_t c = 0;
  for (; c + 4 * L <= width; c += 4 * L) correlate_strip<T, 4>(g + c, g_stride, a + c, a_stride, rows, acc + c);
  for (; c + L <= width; c += L) correlate_strip<T, 1>(g + c, g_stride, a + c, a_stride, rows, acc + c);
  for (; c < width; ++c) {
    T sum = 0;
    for (std::int64_t row = 0; row < rows; ++row) sum += g[row * g_stride + c] * a[row * a_stride + c];
    acc[c] += sum;
  }
}

template <typename T>
Tiles<T> make_tiles(const char* instructions) {
  Tiles<T> tiles{};
  tiles.instructions = instructions;
  tiles.rows = kTileRows;
  tiles.panel_width = panel_width<T>();
  tiles.lanes = Vector<T>::lanes;
  fill<T, 1>(tiles.multiply[0], std::make_integer_sequence<int, kTileRows>());
  fill<T, 2>(tiles.multiply[1], std::make_integer_sequence<int, kTileRows>());
  tiles.copy_rows = &copy_rows<T>;
  tiles.pack_gradients = &pack_panels<T, panel_width<T>()>;
  tiles.pack_inputs = &pack_panels<T, 2 * Vector<T>::lanes>;
  tiles.add_columns = &add_columns<T>;
  tiles.correlate = &correlate<T>;
  return tiles;
}

}  // namespace
}  // namespace potion
