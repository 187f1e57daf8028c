// Just enough of CUDA to run the kernels of csrc/cuda on the host. Each thread of a block is a fiber that runs until it
// waits for others, at a barrier or to hear from its warp. A warp runs as far ahead of the others as it can, and every
// second block begins with its last one, so that a barrier that is missing shows; one that not all threads reach is an
// error. Blocks run one after the other. Shared memory is static: it begins a block with what the last one left.
//
// What this cannot show: threads that truly run at the same time, the order in which blocks see each other's writes,
// speed, and what the hardware's own arithmetic does.
#pragma once

#include <ucontext.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Index { int x; };
inline Index blockIdx, threadIdx, gridDim;

// --- Fibers ---

namespace host {

struct Barrier {
  int arrived = 0;
  long round = 0;
};

// What the lanes of a warp that name the same mask tell each other. A lane that writes round r + 2 knows that all have
// read round r, for they have arrived at r + 1.
struct Exchange {
  Barrier barrier;
  std::uint64_t values[2][32];
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool running;
};

constexpr std::size_t kStack = 1 << 17;
inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline std::function<void()> kernel;
inline int running;    // fibers of the block that have not returned
inline bool progress;  // a barrier was passed or a fiber has returned
inline Barrier block;
inline std::map<unsigned, Exchange> warps[32];

inline void enter() {
  kernel();
  fibers[threadIdx.x].running = false;
  --running;
  progress = true;
  swapcontext(&fibers[threadIdx.x].context, &scheduler);
}

// Waits until all have arrived; threads that have returned need not.
inline void wait(Barrier& barrier, int all) {
  const int thread = threadIdx.x;
  const long round = barrier.round;
  ++barrier.arrived;
  while (barrier.round == round) {
    if (barrier.arrived == (all ? all : running)) {
      barrier.arrived = 0;
      ++barrier.round;
      progress = true;
    } else {
      swapcontext(&fibers[thread].context, &scheduler);
    }
  }
}

inline void run_block(int threads) {
  block = {};
  for (auto& warp : warps) warp.clear();
  if (fibers.size() < static_cast<std::size_t>(threads)) fibers.resize(threads);
  for (Fiber& fiber : fibers) {
    if (!fiber.stack) fiber.stack = std::make_unique<char[]>(kStack);
    fiber.running = &fiber - fibers.data() < threads;
    if (!fiber.running) continue;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, enter, 0);
  }
  for (running = threads; running > 0;) {
    bool any = false;
    for (int first = 0; first < threads; first += 32) {
      do {
        progress = false;
        for (int i = first; i < first + 32 && i < threads; ++i) {
          threadIdx.x = blockIdx.x % 2 ? threads - 1 - i : i;
          if (fibers[threadIdx.x].running) swapcontext(&scheduler, &fibers[threadIdx.x].context);
        }
        any = any || progress;
      } while (progress);
    }
    if (!any) throw std::runtime_error("the threads of a block wait for each other");
  }
}

// The values that the lanes in `mask` have brought.
template <typename T>
std::array<T, 32> exchange(unsigned mask, T value) {
  static_assert(sizeof(T) <= 8);
  const int lane = threadIdx.x % 32;
  Exchange& warp = warps[threadIdx.x / 32][mask];
  std::uint64_t* values = warp.values[warp.barrier.round % 2];
  std::memcpy(values + lane, &value, sizeof value);
  wait(warp.barrier, __builtin_popcount(mask));
  std::array<T, 32> all;
  for (int i = 0; i < 32; ++i) std::memcpy(&all[i], values + i, sizeof value);
  return all;
}

}  // namespace host

inline void __syncthreads() { host::wait(host::block, 0); }
inline void __syncwarp(unsigned mask = ~0u) { host::exchange(mask, 0); }
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
  const int lane = threadIdx.x % 32;
  return host::exchange(mask, value)[lane >= distance ? lane - distance : lane];
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return host::exchange(mask, value)[lane];
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const auto all = host::exchange(mask, value);
  unsigned peers = 0;
  for (int i = 0; i < 32; ++i) peers |= static_cast<unsigned>((mask >> i & 1) && all[i] == value) << i;
  return peers;
}
inline unsigned __ballot_sync(unsigned mask, bool wanted) {
  return __match_any_sync(mask, wanted) ^ (wanted ? 0 : mask);
}

// --- Instructions ---

template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline std::uint64_t __umul64hi(std::uint64_t a, std::uint64_t b) {
  return static_cast<unsigned __int128>(a) * b >> 64;
}

struct alignas(16) float4 { float x, y, z, w; };
template <typename T>
T __ldcs(const T* from) { return *from; }
template <typename T>
void __stcs(T* to, T value) { *to = value; }

// --- Runtime ---

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
constexpr int cudaDevAttrMultiProcessorCount = 16;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = 1;  // one multiprocessor, so that the kernels have to stride over the grid
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, int) {
  *blocks = 3;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

template <typename Kernel>
void launch_on_cpu(int blocks, int threads, Kernel kernel) {
  if (blocks <= 0 || threads <= 0 || threads > 1024) throw std::runtime_error("invalid launch");
  host::kernel = kernel;
  gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) host::run_block(threads);
}
