// The weights that some candidate changes, grouped by the first candidate that selects them (eq. 1): a stable counting
// sort of the few that were kept, or where they were not kept of all weights.
//
// The weights are cut into chunks of 16 tiles. One kernel counts the groups in each chunk, one adds up the chunks
// before each, and after the caller has read the sizes a third puts the weights into their places, ordered in shared
// memory first so that each group is written in runs.
#include <stdexcept>

#include "cuda/block.cuh"
#include "cuda/workspace.cuh"

namespace potion {
namespace {

constexpr int kRound = 2048;  // weights that a block orders at a time
constexpr int kUnroll = kRound / kThreads;

struct Starts {
  std::int64_t start[kMostGroups];
};

// falling[j]: the αs by falling value, NaN first.
__device__ inline void sort_descending(float* falling, const float* alphas, int K) {
  const int k = threadIdx.x;
  if (k < K) {
    const float alpha = alphas[k];
    int before = 0;
    for (int j = 0; j < K; ++j) {
      const float other = alphas[j];
      const bool greater = other > alpha || (other != other && alpha == alpha);
      const bool smaller = other < alpha || (other == other && alpha != alpha);
      before += greater || (!smaller && j < k);
    }
    falling[before] = alpha;
  }
  __syncthreads();
}

// Every weight that some α selects survives the bound of the smallest, unless that is negative: −∞ · 0 is no bound.
__global__ void __launch_bounds__(kThreads)
    lowest_alpha_kernel(const Workspace work, const float* __restrict__ alphas,  // [K]
                 int K) {
  __shared__ float falling[kMostGroups];
  sort_descending(falling, alphas, K);
  if (threadIdx.x) return;
  State& state = *work.state;
  state.least = falling[K - 1];
  state.bound = bound_below(state.least);
  if (state.least < 0.0f) state.failed = 1;
}

struct Weight {
  float forget, retain;
  int place;  // in the chunk
};

// The weights of a chunk that can be in a group, by ascending index. Every thread of the block constructs it.
template <bool kept>
struct Chunk {
  const Workspace& work;
  const float* forget;  // [n]
  const float* retain;  // [n]
  std::int64_t first;   // weight of the chunk
  int size;

  __device__ Chunk(const Workspace& work, const float* forget, const float* retain, std::int64_t n, std::int64_t chunk)
      : work(work), forget(forget), retain(retain), first(chunk * kChunk * kTile) {
    if constexpr (kept) {
      const std::int64_t tile = chunk * kChunk + threadIdx.x;
      Segment segment{0, 0};
      if (threadIdx.x < kChunk && tile * kTile < n) segment = work.segments[tile];
      if (threadIdx.x < 32) {
        const int end = warp_scan(static_cast<int>(segment.count));
        if (threadIdx.x < kChunk) starts()[threadIdx.x] = segment.start;
        if (threadIdx.x < kChunk) ends()[threadIdx.x] = end;
      }
      __syncthreads();
      size = ends()[kChunk - 1];
    } else {
      size = n - first < kChunk * kTile ? static_cast<int>(n - first) : kChunk * kTile;
    }
  }

  __device__ Weight operator[](int i) const {
    if constexpr (kept) {
      int tile = 0;  // the one with end[tile - 1] ≤ i < end[tile]
#pragma unroll
      for (int step = kChunk / 2; step > 0; step /= 2)
        if (i >= ends()[tile + step - 1]) tile += step;
      const int before = tile ? ends()[tile - 1] : 0;
      const std::int64_t at = static_cast<std::int64_t>(starts()[tile]) + (i - before);
      return {work.forget[at], work.retain[at], tile * kTile + work.place[at]};
    } else {
      return {forget[first + i], retain[first + i], i};
    }
  }

  // Where the survivors of each tile begin, and how many there are up to its end.
  __device__ static std::uint32_t* starts() {
    __shared__ std::uint32_t shared[kChunk];
    return shared;
  }
  __device__ static int* ends() {
    __shared__ int shared[kChunk];
    return shared;
  }
};

// The group of a weight, or K.
__device__ inline int group_of(const Weight& weight, const float* falling, int K, float dampening) {
  const int group = first_group(weight.forget, weight.retain, falling, K);
  return group < K && is_changed(weight.forget, weight.retain, dampening) ? group : K;
}

template <bool kept>
__global__ void __launch_bounds__(kThreads)
    sizes_kernel(const Workspace work,              // groups: [K][chunks]
                 const float* __restrict__ alphas,  // [K]
                 const float* __restrict__ forget,  // [n]
                 const float* __restrict__ retain,  // [n]
                 std::int64_t n, int K, float dampening) {
  __shared__ float falling[kMostGroups];
  __shared__ int sizes[kMostGroups];
  if (has_failed(*work.state)) return;
  sort_descending(falling, alphas, K);
  const std::int64_t chunks = (n + kChunk * kTile - 1) / (kChunk * kTile);
  for (std::int64_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    if (threadIdx.x < K) sizes[threadIdx.x] = 0;
    const Chunk<kept> chunk(work, forget, retain, n, c);
    __syncthreads();
#pragma unroll 4
    for (int i = threadIdx.x; i < chunk.size; i += kThreads) {
      const int group = group_of(chunk[i], falling, K, dampening);
      if (group < K) atomicAdd(&sizes[group], 1);
    }
    __syncthreads();
    if (threadIdx.x < K) work.groups[threadIdx.x * chunks + c] = sizes[threadIdx.x];
  }
}

// Block k: how many weights of group k lie before each chunk, and how many there are.
__global__ void __launch_bounds__(kThreads) exclusive_scan_kernel(const Workspace work, std::int64_t chunks) {
  if (has_failed(*work.state)) return;
  std::int64_t* row = work.groups + blockIdx.x * chunks;
  std::int64_t before = 0;
  for (std::int64_t start = 0; start < chunks; start += kThreads) {
    const std::int64_t c = start + threadIdx.x;
    const std::int64_t size = c < chunks ? row[c] : 0;
    std::int64_t total;
    const std::int64_t sum = block_scan(size, total);
    if (c < chunks) row[c] = before + sum;
    before += total;
  }
  if (threadIdx.x == 0) work.state->sizes[blockIdx.x] = before;
}

template <bool kept, typename Index>
__global__ void __launch_bounds__(kThreads)
    write_kernel(Index* __restrict__ index,         // [m]
                 float* __restrict__ group_forget,  // [m]
                 float* __restrict__ group_retain,  // [m]
                 const Workspace work,              // groups: [K][chunks]
                 const float* __restrict__ alphas,  // [K]
                 const float* __restrict__ forget,  // [n]
                 const float* __restrict__ retain,  // [n]
                 std::int64_t n, int K, float dampening, const __grid_constant__ Starts starts) {
  __shared__ float falling[kMostGroups];
  __shared__ int ranks[kWarps][kMostGroups];  // weights of each group that the warp has, then the slot of its first
  __shared__ std::int64_t to[kMostGroups];    // slot + to[group] is the place in the output
  __shared__ float slot_forget[kRound], slot_retain[kRound];
  __shared__ std::uint16_t slot_place[kRound];
  __shared__ std::uint8_t slot_group[kRound];
  sort_descending(falling, alphas, K);
  const std::int64_t chunks = (n + kChunk * kTile - 1) / (kChunk * kTile);
  for (std::int64_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    const Chunk<kept> chunk(work, forget, retain, n, c);
    const int g = threadIdx.x;  // the group that this thread looks after
    std::int64_t next = g < K ? starts.start[g] + work.groups[g * chunks + c] : 0;
    for (int round = 0; round < chunk.size; round += kRound) {
      for (int i = lane(); i < K; i += 32) ranks[warp()][i] = 0;
      __syncwarp();

      Weight weight[kUnroll];  // each warp has a run of the round, and of it each lane every 32nd weight
      int group[kUnroll];
      int rank[kUnroll];  // in the warp's part of the group
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int i = round + (warp() * kUnroll + u) * 32 + lane();
        group[u] = K;
        if (i < chunk.size) {
          weight[u] = chunk[i];
          group[u] = group_of(weight[u], falling, K, dampening);
        }
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const unsigned peers = __match_any_sync(kAll, group[u]);
        const int earlier = __popc(peers & ((1u << lane()) - 1));
        if (group[u] < K) rank[u] = ranks[warp()][group[u]] + earlier;
        __syncwarp();
        if (group[u] < K && earlier == 0) ranks[warp()][group[u]] += __popc(peers);
        __syncwarp();
      }
      __syncthreads();

      int size = 0;
      if (g < K)
        for (int w = 0; w < kWarps; ++w) size += ranks[w][g];
      int total;
      int slot = block_scan(size, total);
      if (g < K) {
        to[g] = next - slot;
        next += size;
        for (int w = 0; w < kWarps; ++w) {
          const int part = ranks[w][g];
          ranks[w][g] = slot;
          slot += part;
        }
      }
      __syncthreads();
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (group[u] < K) {
          const int at = ranks[warp()][group[u]] + rank[u];
          slot_forget[at] = weight[u].forget;
          slot_retain[at] = weight[u].retain;
          slot_place[at] = weight[u].place;
          slot_group[at] = group[u];
        }
      }
      __syncthreads();
      for (int at = threadIdx.x; at < total; at += kThreads) {
        const std::int64_t place = to[slot_group[at]] + at;
        index[place] = static_cast<Index>(chunk.first + slot_place[at]);
        group_forget[place] = slot_forget[at];
        group_retain[place] = slot_retain[at];
      }
    }
    __syncthreads();  // the next chunk's tiles
  }
}

}  // namespace

void count_groups_cuda(const float* forget, const float* retain, std::int64_t n, const Candidates& candidates,
                       bool selected, std::int64_t capacity, void* memory, std::uintptr_t stream_address) {
  const auto stream = reinterpret_cast<cudaStream_t>(stream_address);
  const float* alphas = candidates.alphas;
  const float dampening = candidates.dampening;
  if (candidates.count > kMostGroups) throw std::invalid_argument("partition: too many candidates in one call");
  const int K = static_cast<int>(candidates.count);
  const Workspace work(memory, n, K, capacity);
  if (!selected) check(cudaMemsetAsync(memory, 0, work.zeroed, stream), "partition");
  if (n == 0 || K == 0) return;
  if (!selected && capacity > 0) {
    lowest_alpha_kernel<<<1, kThreads, 0, stream>>>(work, alphas, K);
    check(cudaGetLastError(), "partition");
    compact(work, forget, retain, n, stream);
  }
  const std::int64_t chunks = (n + kChunk * kTile - 1) / (kChunk * kTile);
  if (capacity > 0) {
    const int grid = grid_size(chunks, sizes_kernel<true>, "partition");
    sizes_kernel<true><<<grid, kThreads, 0, stream>>>(work, alphas, forget, retain, n, K, dampening);
  } else {
    const int grid = grid_size(chunks, sizes_kernel<false>, "partition");
    sizes_kernel<false><<<grid, kThreads, 0, stream>>>(work, alphas, forget, retain, n, K, dampening);
  }
  check(cudaGetLastError(), "partition");
  exclusive_scan_kernel<<<K, kThreads, 0, stream>>>(work, chunks);
  check(cudaGetLastError(), "partition");
}

template <typename Index>
void write_groups_cuda(const float* forget, const float* retain, std::int64_t n, const Candidates& candidates,
                       const std::vector<std::int64_t>& starts, std::int64_t capacity, void* memory, Index* index,
                       float* group_forget, float* group_retain, std::uintptr_t stream_address) {
  const auto stream = reinterpret_cast<cudaStream_t>(stream_address);
  const float* alphas = candidates.alphas;
  const float dampening = candidates.dampening;
  if (candidates.count > kMostGroups || starts.size() != static_cast<std::size_t>(candidates.count) + 1)
    throw std::invalid_argument("partition: the starts do not fit the candidates");
  if (starts.back() == 0) return;
  const int K = static_cast<int>(candidates.count);
  Starts table{};
  std::copy(starts.begin(), starts.end() - 1, table.start);
  const Workspace work(memory, n, K, capacity);
  const std::int64_t chunks = (n + kChunk * kTile - 1) / (kChunk * kTile);
  if (capacity > 0) {
    const int grid = grid_size(chunks, write_kernel<true, Index>, "partition");
    write_kernel<true, Index><<<grid, kThreads, 0, stream>>>(index, group_forget, group_retain, work, alphas, forget,
                                                             retain, n, K, dampening, table);
  } else {
    const int grid = grid_size(chunks, write_kernel<false, Index>, "partition");
    write_kernel<false, Index><<<grid, kThreads, 0, stream>>>(index, group_forget, group_retain, work, alphas, forget,
                                                             retain, n, K, dampening, table);
  }
  check(cudaGetLastError(), "partition");
}

template void write_groups_cuda(const float*, const float*, std::int64_t, const Candidates&,
                                const std::vector<std::int64_t>&, std::int64_t, void*, std::int32_t*, float*, float*,
                                std::uintptr_t);
template void write_groups_cuda(const float*, const float*, std::int64_t, const Candidates&,
                                const std::vector<std::int64_t>&, std::int64_t, void*, std::int64_t*, float*, float*,
                                std::uintptr_t);

}  // namespace potion
