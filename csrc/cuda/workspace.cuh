// What select and partition keep in the device memory that their caller gives, and the pass that both begin with.
#pragma once

#include <type_traits>

#include "arguments.h"
#include "cuda/launch.cuh"
#include "ratios.h"

namespace potion {

constexpr int kTile = 3072;       // weights whose survivors a block lists at a time
constexpr int kChunk = 16;        // tiles whose weights are put into groups together
constexpr int kFirst = 4096;      // bins of the first digit of a ratio, its upper 12 bits; 10 and 10 bits follow
constexpr int kNext = 1024;       // bins of the second and third digit
constexpr int kSampleShift = 17;  // bits of a ratio that the sample leaves out
constexpr int kSample = 1 << (31 - kSampleShift);
static_assert(kChunk * kTile <= 1 << 16, "places in a chunk fit 16 bits");

// One wanted rank: the digits of its ratio that are known, and how many ratios with these digits are greater.
struct Target {
  std::uint32_t key;
  std::int64_t greater;
};

struct State {
  std::int64_t failed;              // the report: 1 where the kept weights do not answer the question,
  std::int64_t sizes[kMostGroups];  // and the number of weights in each group
  unsigned long long survivors;     // that were kept, or would have been if the capacity had allowed it
  unsigned long long not_finite;    // ratios without a rank
  float least, bound;               // every ratio above `least` survives the test with `bound`
  Target targets[2 * kMostPercentiles];
};

// The survivors of one tile: places [start, start + count) of the kept weights, by ascending index.
struct Segment {
  std::uint32_t start, count;
};

struct Workspace {
  State* state;
  unsigned* sample;            // [kSample]
  unsigned long long* first;   // [kFirst] how many ratios have this first digit
  unsigned long long* second;  // [2K][kNext] and this second one, for the first digit of each target
  unsigned long long* third;   // [2K][kNext]
  std::uint8_t* first_slot;    // [kFirst] 1 + the row of `second` that counts the ratios with this digit, or 0
  std::uint8_t* second_slot;   // [2K][kNext] the same for `third`
  std::int64_t* groups;        // [K][chunks] weights of each group, then where they go
  Segment* segments;           // [tiles]
  float *forget, *retain;      // [capacity] the survivors
  std::uint16_t* place;        // [capacity] in the tile
  std::int64_t capacity;
  std::size_t zeroed, bytes;   // what begins at zero, and all

  Workspace(void* memory, std::int64_t n, int K, std::int64_t room) : capacity(room) {
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    std::uintptr_t next = begin;
    const auto take = [&](auto*& pointer, std::int64_t count) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(next);
      next += (static_cast<std::size_t>(count) * sizeof *pointer + 255) / 256 * 256;
    };
    const std::int64_t targets = 2 * std::min(K, kMostPercentiles);
    const std::int64_t tiles = (n + kTile - 1) / kTile;
    take(state, 1);
    take(sample, kSample);
    take(first, kFirst);
    take(second, targets * kNext);
    take(third, targets * kNext);
    take(first_slot, kFirst);
    take(second_slot, targets * kNext);
    zeroed = next - begin;
    take(groups, K * ((tiles + kChunk - 1) / kChunk));
    take(segments, capacity > 0 ? tiles : 0);
    take(forget, capacity);
    take(retain, capacity);
    take(place, capacity);
    bytes = next - begin;
  }
};

// One read of the importances, 8 bytes per weight: keeps what survives `state->bound`, and counts by first digit.
void compact(const Workspace& work, const float* forget, const float* retain, std::int64_t n, cudaStream_t stream);

// Whether the attempt has failed, the same for all threads of the block although other blocks may find out meanwhile.
__device__ inline bool has_failed(const State& state) {
  __shared__ bool failed;
  if (threadIdx.x == 0) failed = *const_cast<const volatile std::int64_t*>(&state.failed) != 0;
  __syncthreads();
  return failed;
}

}  // namespace potion
