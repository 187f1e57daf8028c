// The one read of the importances that select and partition begin with (eq. 1 and 7): a weight is kept if its ratio can
// be at least `state->least`, by a product, and only what is kept is divided. 8 bytes per weight, and 10 for each of the
// few that are kept: memory bandwidth is the floor.
//
// A block takes a tile, lists the survivors in shared memory by ascending index, and reserves as many places with one
// atomic. Tiles come to lie in any order, weights within a tile in theirs: `segments` finds them.
#include "cuda/block.cuh"
#include "cuda/workspace.cuh"

namespace potion {
namespace {

constexpr int kVector = 4;
constexpr int kUnroll = kTile / (kThreads * kVector);
constexpr int kPart = 32 * kVector;  // of a tile: one vector of each lane
constexpr int kBins = kFirst / 2;    // ratios of survivors are not negative
static_assert(kPart < 256 && kUnroll <= 3, "as many counts are packed into one int, 8 bits each");

// Elements [i, i + 4); behind the end, weights that do not survive and have a rank.
__device__ inline float4 load(const float* from, std::int64_t i, std::int64_t n, float behind) {
  return {i < n ? from[i] : behind, i + 1 < n ? from[i + 1] : behind, i + 2 < n ? from[i + 2] : behind,
          i + 3 < n ? from[i + 3] : behind};
}

__global__ void __launch_bounds__(kThreads, 4)
    compact_kernel(const Workspace work,
                   const float* __restrict__ forget,  // [n]
                   const float* __restrict__ retain,  // [n]
                   std::int64_t n, bool aligned) {
  __shared__ unsigned bins[kBins];
  __shared__ __align__(16) float tile_forget[kTile], tile_retain[kTile];
  __shared__ std::uint16_t places[kTile];  // of the survivors, in the tile
  __shared__ int counts[kWarps];           // survivors of each warp
  __shared__ unsigned long long reserved;

  State& state = *work.state;
  if (has_failed(state)) return;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  const float bound = state.bound;
  const int own = warp() * kUnroll * kPart + lane() * kVector;  // place of the first vector; the others follow by kPart
  unsigned not_finite = 0;
  unsigned signs = 0;

  const std::int64_t tiles = (n + kTile - 1) / kTile;
  for (std::int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const std::int64_t start = tile * kTile + own;
    float4 f[kUnroll], r[kUnroll];
    if (aligned && (tile + 1) * kTile <= n) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        f[u] = __ldcs(reinterpret_cast<const float4*>(forget + start + u * kPart));
        r[u] = __ldcs(reinterpret_cast<const float4*>(retain + start + u * kPart));
      }
    } else {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        f[u] = load(forget, start + u * kPart, n, 0.0f);
        r[u] = load(retain, start + u * kPart, n, 1.0f);
      }
    }

    unsigned kept[kUnroll];  // a bit for each element
    int count = 0;           // of each vector, 8 bits each
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      kept[u] = 0;
      const auto decide = [&](float forget_e, float retain_e, unsigned bit) {
        const bool survivor = survives(forget_e, retain_e, bound);
        if (survivor) kept[u] |= bit;
        if (!survivor && has_no_rank(forget_e, retain_e)) ++not_finite;
        signs |= bits_of(forget_e) | bits_of(retain_e);
      };
      decide(f[u].x, r[u].x, 1);
      decide(f[u].y, r[u].y, 2);
      decide(f[u].z, r[u].z, 4);
      decide(f[u].w, r[u].w, 8);
      count += __popc(kept[u]) << (8 * u);
    }

    const int inclusive = warp_scan(count);
    const int all = __shfl_sync(kAll, inclusive, 31);
    int survivors = 0;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) survivors += all >> (8 * u) & 0xff;
    if (lane() == 0) counts[warp()] = survivors;
    __syncthreads();
    int slot = 0;  // of the warp's first survivor
    survivors = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp()) slot = survivors;
      survivors += counts[w];
    }
    if (threadIdx.x == 0) {
      reserved = survivors ? atomicAdd(&state.survivors, static_cast<unsigned long long>(survivors)) : 0;
      work.segments[tile] = {static_cast<std::uint32_t>(reserved), static_cast<std::uint32_t>(survivors)};
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int place = own + u * kPart;
      *reinterpret_cast<float4*>(tile_forget + place) = f[u];
      *reinterpret_cast<float4*>(tile_retain + place) = r[u];
      int next = slot + ((inclusive - count) >> (8 * u) & 0xff);
      for (unsigned left = kept[u]; left; left &= left - 1) places[next++] = place + __ffs(left) - 1;
      slot += all >> (8 * u) & 0xff;
    }
    __syncthreads();
    const std::int64_t at = reserved;
    const bool fits = at + survivors <= work.capacity;
    if (!fits && threadIdx.x == 0) state.failed = 1;
    for (int i = threadIdx.x; i < survivors; i += kThreads) {
      const int place = places[i];
      const float forget_i = tile_forget[place];
      const float retain_i = tile_retain[place];
      const float ratio = forget_i / retain_i;
      if (is_finite(ratio))
        atomicAdd(&bins[(bits_of(ratio) >> 20) % kBins], 1u);  // negative ones have failed
      else
        ++not_finite;
      if (fits) {
        work.forget[at + i] = forget_i;
        work.retain[at + i] = retain_i;
        work.place[at + i] = place;
      }
    }
  }

  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads)
    if (bins[bin]) atomicAdd(work.first + kBins + bin, static_cast<unsigned long long>(bins[bin]));
  const unsigned all_not_finite = warp_scan(not_finite);
  if (lane() == 31 && all_not_finite) atomicAdd(&state.not_finite, static_cast<unsigned long long>(all_not_finite));
  if (signs >> 31) state.failed = 1;  // a negative importance: products do not decide as ratios do
}

}  // namespace

void compact(const Workspace& work, const float* forget, const float* retain, std::int64_t n, cudaStream_t stream) {
  const bool aligned = (reinterpret_cast<std::uintptr_t>(forget) | reinterpret_cast<std::uintptr_t>(retain)) % 16 == 0;
  const int grid = grid_size((n + kTile - 1) / kTile, compact_kernel, "compact");
  compact_kernel<<<grid, kThreads, 0, stream>>>(work, forget, retain, n, aligned);
  check(cudaGetLastError(), "compact");
}

}  // namespace potion
