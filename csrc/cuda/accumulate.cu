// sums += |g| or g² over a list of gradients, as few launches as their table fits into the 4 KB of kernel arguments.
// 12 bytes per float parameter: memory bandwidth is the floor. Neighbouring threads take neighbouring elements, and
// each has kUnroll independent loads of both arrays in flight, so no alignment of the tensors is needed.
#include "arguments.h"
#include "cuda/launch.cuh"
#include "elementwise.h"

namespace potion {
namespace {

constexpr int kUnroll = 8;
constexpr int kTile = kThreads * kUnroll;  // elements that a block does at a time, of one tensor
constexpr int kTensors = 200;

template <typename T>
struct Table {
  const T* gradient[kTensors];
  std::int64_t start[kTensors + 1];  // where each gradient begins in the flat buffer, and where the last one ends
  int first_tile[kTensors + 1];
  int tensors;
};
static_assert(sizeof(Table<float>) + sizeof(void*) <= 4096, "kernel arguments hold 4 KB");

template <bool square, typename T>
__global__ void __launch_bounds__(kThreads) accumulate_kernel(T* __restrict__ sums, const __grid_constant__ Table<T> table) {
  const int tiles = table.first_tile[table.tensors];
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    int tensor = 0;  // the last one with first_tile ≤ tile
    for (int after = table.tensors; after - tensor > 1;) {
      const int middle = (tensor + after) / 2;
      (table.first_tile[middle] <= tile ? tensor : after) = middle;
    }
    const std::int64_t size = table.start[tensor + 1] - table.start[tensor];
    const std::int64_t from = static_cast<std::int64_t>(tile - table.first_tile[tensor]) * kTile + threadIdx.x;
    const T* __restrict__ g = table.gradient[tensor];
    T* s = sums + table.start[tensor];

    T gradient[kUnroll];
    T sum[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = from + u * kThreads;
      if (i < size) {
        gradient[u] = g[i];
        sum[u] = s[i];
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = from + u * kThreads;
      if (i < size) s[i] = sum[u] + magnitude<square>(gradient[u]);
    }
  }
}

template <typename T>
void launch(T* sums, const Table<T>& table, bool square, cudaStream_t stream) {
  const int tiles = table.first_tile[table.tensors];
  if (tiles == 0) return;
  const int grid = grid_size(tiles, "accumulate");
  if (square)
    accumulate_kernel<true, T><<<grid, kThreads, 0, stream>>>(sums, table);
  else
    accumulate_kernel<false, T><<<grid, kThreads, 0, stream>>>(sums, table);
  check(cudaGetLastError(), "accumulate");
}

}  // namespace

template <typename T>
void accumulate_cuda(T* sums, const Gradients& gradients, bool square, std::uintptr_t stream) {
  Table<T> table{};
  for (std::size_t i = 0; i < gradients.sizes.size(); ++i) {
    const std::int64_t size = gradients.sizes[i];
    const int slot = table.tensors++;
    table.gradient[slot] = reinterpret_cast<const T*>(gradients.addresses[i]);
    table.start[slot + 1] = table.start[slot] + size;
    table.first_tile[slot + 1] = table.first_tile[slot] + static_cast<int>((size + kTile - 1) / kTile);
    if (table.tensors == kTensors || i + 1 == gradients.sizes.size()) {
      launch(sums, table, square, reinterpret_cast<cudaStream_t>(stream));
      const std::int64_t done = table.start[table.tensors];
      table = {};
      table.start[0] = done;
    }
  }
}

template void accumulate_cuda(float*, const Gradients&, bool, std::uintptr_t);
template void accumulate_cuda(double*, const Gradients&, bool, std::uintptr_t);

}  // namespace potion
