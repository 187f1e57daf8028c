// take and put: weights at places of a flat buffer that is spread over many parameters, as few launches as the table of
// parameters fits into the 4 KB of kernel arguments. A group of a search lies in a hundred parameters and more, so that
// one launch for each would cost more than the weights.
#include <type_traits>

#include "arguments.h"
#include "cuda/launch.cuh"

namespace potion {
namespace {

constexpr int kUnroll = 4;
constexpr int kTile = kThreads * kUnroll;  // places that a block does at a time, of one parameter
constexpr int kParameters = 200;

struct Table {
  std::uintptr_t origin[kParameters];   // where the flat buffer would begin if the parameter were part of it
  std::int64_t start[kParameters + 1];  // where the places in each parameter begin, and where the last ones end
  int first_tile[kParameters + 1];
  int parameters;
};
static_assert(sizeof(Table) + 2 * sizeof(void*) <= 4096, "kernel arguments hold 4 KB");

template <bool write, typename Index>
__global__ void __launch_bounds__(kThreads)
    put_kernel(const Index* __restrict__ index,                        // [m]
               std::conditional_t<write, const float, float>* values,  // [m]
               const __grid_constant__ Table table) {
  const int tiles = table.first_tile[table.parameters];
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    int parameter = 0;  // the last one with first_tile ≤ tile
    for (int after = table.parameters; after - parameter > 1;) {
      const int middle = (parameter + after) / 2;
      (table.first_tile[middle] <= tile ? parameter : after) = middle;
    }
    const std::uintptr_t origin = table.origin[parameter];
    const std::int64_t end = table.start[parameter + 1];
    const std::int64_t from =
        table.start[parameter] + static_cast<std::int64_t>(tile - table.first_tile[parameter]) * kTile + threadIdx.x;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = from + u * kThreads;
      if (i < end) {
        float* weight = reinterpret_cast<float*>(origin + sizeof(float) * static_cast<std::uintptr_t>(index[i]));
        if constexpr (write)
          *weight = values[i];
        else
          values[i] = *weight;
      }
    }
  }
}

template <bool write, typename Index, typename Value>
void launch(const Places& places, const Index* index, Value* values, cudaStream_t stream) {
  Table table{};
  for (std::size_t p = 0; p < places.addresses.size(); ++p) {
    const std::int64_t size = places.cuts[p + 1] - places.cuts[p];
    if (size > 0) {
      const int slot = table.parameters++;
      table.origin[slot] = places.addresses[p] - sizeof(float) * static_cast<std::uintptr_t>(places.offsets[p]);
      table.start[slot] = places.cuts[p];
      table.start[slot + 1] = places.cuts[p + 1];
      table.first_tile[slot + 1] = table.first_tile[slot] + static_cast<int>((size + kTile - 1) / kTile);
    }
    if (table.parameters == kParameters || (table.parameters > 0 && p + 1 == places.addresses.size())) {
      const int grid = grid_size(table.first_tile[table.parameters], "put");
      put_kernel<write, Index><<<grid, kThreads, 0, stream>>>(index, values, table);
      check(cudaGetLastError(), "put");
      table = {};
    }
  }
}

}  // namespace

template <typename Index>
void take_cuda(const Places& places, const Index* index, float* values, std::uintptr_t stream) {
  launch<false>(places, index, values, reinterpret_cast<cudaStream_t>(stream));
}

template <typename Index>
void put_cuda(const Places& places, const Index* index, const float* values, std::uintptr_t stream) {
  launch<true>(places, index, values, reinterpret_cast<cudaStream_t>(stream));
}

template void take_cuda(const Places&, const std::int32_t*, float*, std::uintptr_t);
template void take_cuda(const Places&, const std::int64_t*, float*, std::uintptr_t);
template void put_cuda(const Places&, const std::int32_t*, const float*, std::uintptr_t);
template void put_cuda(const Places&, const std::int64_t*, const float*, std::uintptr_t);

}  // namespace potion
