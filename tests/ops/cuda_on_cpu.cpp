// What tests/test_cuda_on_cpu.py calls: the functions of csrc/kernels.h for a GPU, under their names in bindings.cpp
// and with its arguments, each a whole number, a double, or an array and its length.
#include <exception>
#include <string>

#include "cuda/block.cuh"
#include "kernels.h"

namespace {

using Number = std::int64_t;
std::string problem;

template <typename Call>
bool succeeds(const Call& call) {
  try {
    call();
    return true;
  } catch (const std::exception& error) {
    problem = error.what();
    return false;
  }
}

template <typename T>
T* at(Number address) {
  return reinterpret_cast<T*>(address);
}

potion::Candidates candidates(Number alphas, Number K, double dampening) {
  return {at<const float>(alphas), K, static_cast<float>(dampening)};
}

std::vector<std::uintptr_t> addresses(const Number* from, Number count) { return {from, from + count}; }

potion::Places places_of(const Number* parameters, Number P, const Number* sizes, const Number* offsets,
                         const Number* cuts) {
  return {addresses(parameters, P), {sizes, sizes + P}, {offsets, offsets + P}, {cuts, cuts + P + 1}};
}

// Only the lower half of the warp comes to where all of it is awaited.
void wait_kernel() {
  if (potion::lane() < 16) __syncwarp(potion::kAll);
}

}  // namespace

extern "C" {

const char* last_problem() { return problem.c_str(); }

bool wait_for_each_other() {
  return succeeds([] { launch_on_cpu(1, 32, wait_kernel); });
}

bool accumulate_cuda(Number sums, const Number* gradients, Number tensors, const Number* sizes, Number, Number float64,
                     Number square, Number stream) {
  return succeeds([&] {
    const potion::Gradients from{addresses(gradients, tensors), {sizes, sizes + tensors}};
    if (float64)
      potion::accumulate_cuda(at<double>(sums), from, square, stream);
    else
      potion::accumulate_cuda(at<float>(sums), from, square, stream);
  });
}

bool dampen_cuda(Number weights, Number forget, Number retain, Number n, double alpha, double dampening,
                 Number stream) {
  return succeeds([&] {
    potion::dampen_cuda(at<float>(weights), at<float>(forget), at<float>(retain), n, static_cast<float>(alpha),
                        static_cast<float>(dampening), stream);
  });
}

bool dampen_many_cuda(Number copies, Number weights, Number forget, Number retain, Number n, Number alphas, Number K,
                      double dampening, Number stream) {
  return succeeds([&] {
    potion::dampen_many_cuda(at<float>(copies), at<float>(weights), at<float>(forget), at<float>(retain), n,
                             candidates(alphas, K, dampening), stream);
  });
}

Number ratios_bytes(Number n, Number K, Number capacity) { return potion::ratios_bytes(n, K, capacity); }

bool select_cuda(Number forget, Number retain, Number n, const double* percentiles, Number K, Number capacity,
                 Number memory, Number alphas, Number stream) {
  return succeeds([&] {
    potion::select_cuda(at<float>(forget), at<float>(retain), n, {percentiles, percentiles + K}, capacity,
                        at<void>(memory), at<float>(alphas), stream);
  });
}

bool count_groups_cuda(Number forget, Number retain, Number n, Number alphas, Number K, double dampening,
                       Number selected, Number capacity, Number memory, Number stream) {
  return succeeds([&] {
    potion::count_groups_cuda(at<float>(forget), at<float>(retain), n, candidates(alphas, K, dampening), selected,
                              capacity, at<void>(memory), stream);
  });
}

bool write_groups_cuda(Number forget, Number retain, Number n, Number alphas, Number K, double dampening,
                       const Number* starts, Number count, Number capacity, Number memory, Number index,
                       Number group_forget, Number group_retain, Number int64, Number stream) {
  return succeeds([&] {
    const auto write = [&](auto* index) {
      potion::write_groups_cuda(at<float>(forget), at<float>(retain), n, candidates(alphas, K, dampening),
                                {starts, starts + count}, capacity, at<void>(memory), index, at<float>(group_forget),
                                at<float>(group_retain), stream);
    };
    int64 ? write(at<std::int64_t>(index)) : write(at<std::int32_t>(index));
  });
}

bool take_cuda(const Number* parameters, Number P, const Number* sizes, Number, const Number* offsets, Number,
               const Number* cuts, Number, Number index, Number int64, Number values, Number stream) {
  return succeeds([&] {
    const potion::Places places = places_of(parameters, P, sizes, offsets, cuts);
    if (int64)
      potion::take_cuda(places, at<std::int64_t>(index), at<float>(values), stream);
    else
      potion::take_cuda(places, at<std::int32_t>(index), at<float>(values), stream);
  });
}

bool put_cuda(const Number* parameters, Number P, const Number* sizes, Number, const Number* offsets, Number,
              const Number* cuts, Number, Number index, Number int64, Number values, Number stream) {
  return succeeds([&] {
    const potion::Places places = places_of(parameters, P, sizes, offsets, cuts);
    if (int64)
      potion::put_cuda(places, at<std::int64_t>(index), at<float>(values), stream);
    else
      potion::put_cuda(places, at<std::int32_t>(index), at<float>(values), stream);
  });
}

}  // extern "C"
