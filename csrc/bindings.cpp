// The Python module potion_fast._native. The only file that knows pybind11; potion_fast/launchers.py is its only caller.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "kernels.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;
using Unlocked = py::call_guard<py::gil_scoped_release>;  // arguments are converted before the GIL is released

// One wrapper per operation for both devices: `last` is a number of threads on the CPU and a stream on the GPU.

template <auto float_kernel, auto double_kernel, typename Last>
void accumulate(Address sums, std::vector<Address> addresses, std::vector<std::int64_t> sizes, bool float64,
                bool square, Last last) {
  const potion::Gradients gradients{std::move(addresses), std::move(sizes)};
  if (float64)
    double_kernel(reinterpret_cast<double*>(sums), gradients, square, last);
  else
    float_kernel(reinterpret_cast<float*>(sums), gradients, square, last);
}

template <auto kernel, typename Last>
void dampen(Address weights, Address forget, Address retain, std::int64_t n, double alpha, double dampening,
            Last last) {
  kernel(reinterpret_cast<float*>(weights), reinterpret_cast<const float*>(forget),
         reinterpret_cast<const float*>(retain), n, static_cast<float>(alpha), static_cast<float>(dampening), last);
}

template <typename Call>
void by_type(bool float64, const Call& call) {
  float64 ? call(double()) : call(float());
}

void accumulate_linear_cpu(std::vector<Address> sums, std::vector<Address> bias, Address weights, bool square,
                           Address inputs, Address gradients, std::int64_t N, std::int64_t rows, std::int64_t O,
                           std::int64_t I, bool float64, int threads) {
  const potion::Totals totals{std::move(sums), std::move(bias), weights, square};
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::accumulate_linear_cpu(totals, reinterpret_cast<const T*>(inputs), reinterpret_cast<const T*>(gradients), N,
                                  rows, O, I, threads);
  });
}

using Sizes = std::vector<std::int64_t>;

void accumulate_conv_cpu(std::vector<Address> sums, std::vector<Address> bias, Address weights, bool square,
                         Address inputs, Address gradients, std::int64_t N, std::int64_t samples, std::int64_t C,
                         std::int64_t O, std::int64_t groups, Sizes input, Sizes output, Sizes kernel, Sizes stride,
                         Sizes padding, Sizes dilation, bool float64, int threads) {
  const potion::Totals totals{std::move(sums), std::move(bias), weights, square};
  const potion::Convolution shape{N, samples, C, O, groups, std::move(input), std::move(output), std::move(kernel),
                                  std::move(stride), std::move(padding), std::move(dilation)};
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::accumulate_conv_cpu(totals, reinterpret_cast<const T*>(inputs), reinterpret_cast<const T*>(gradients),
                                shape, threads);
  });
}

void channel_sums_cpu(Address scale, Address shift, Address inputs, Address gradients, Address mean, std::int64_t B,
                      std::int64_t C, std::int64_t positions, bool channels_last, bool float64, int threads) {
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::channel_sums_cpu(reinterpret_cast<T*>(scale), reinterpret_cast<T*>(shift),
                             reinterpret_cast<const T*>(inputs), reinterpret_cast<const T*>(gradients),
                             reinterpret_cast<const T*>(mean), B, C, positions, channels_last, threads);
  });
}

void row_sums_cpu(Address scale, Address shift, Address inputs, Address gradients, std::int64_t N, std::int64_t rows,
                  std::int64_t width, double eps, bool centred, bool float64, int threads) {
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::row_sums_cpu(reinterpret_cast<T*>(scale), reinterpret_cast<T*>(shift), reinterpret_cast<const T*>(inputs),
                         reinterpret_cast<const T*>(gradients), N, rows, width, eps, centred, threads);
  });
}

void dampen_many_cpu(Address copies, Address weights, Address forget, Address retain, std::int64_t n, Address alphas,
                     std::int64_t K, double dampening, int threads) {
  potion::dampen_many_cpu(reinterpret_cast<float*>(copies), reinterpret_cast<const float*>(weights),
                          reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                          {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)}, threads);
}

std::pair<double, std::int64_t> select_bound_cpu(Address forget, Address retain, std::int64_t n, double lowest) {
  const potion::Bound bound = potion::select_bound_cpu(reinterpret_cast<const float*>(forget),
                                                       reinterpret_cast<const float*>(retain), n, lowest);
  return {bound.ratio, bound.capacity};
}

using Kept = std::tuple<Address, Address, Address, Address, std::int64_t>;  // the fields of potion::Survivors

potion::Survivors survivors_at(const Kept& kept) {
  const auto [places, forget, retain, parts, capacity] = kept;
  return {reinterpret_cast<std::uint16_t*>(places), reinterpret_cast<float*>(forget), reinterpret_cast<float*>(retain),
          reinterpret_cast<std::int64_t*>(parts), capacity};
}

potion::Selected select_kept_cpu(Address forget, Address retain, std::int64_t n, double bound,
                                 const std::vector<double>& percentiles, const Kept& kept, Address alphas,
                                 int threads) {
  return potion::select_kept_cpu(reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                                 static_cast<float>(bound), percentiles, survivors_at(kept),
                                 reinterpret_cast<float*>(alphas), threads);
}

potion::Selected select_all_cpu(Address forget, Address retain, std::int64_t n, const std::vector<double>& percentiles,
                                Address alphas, int threads) {
  return potion::select_all_cpu(reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                                percentiles, reinterpret_cast<float*>(alphas), threads);
}

bool count_groups_cpu(Address forget, Address retain, std::int64_t n, const std::optional<Kept>& kept, Address alphas,
                      std::int64_t K, double dampening, Address table, Address starts, int threads) {
  const potion::Survivors survivors = kept ? survivors_at(*kept) : potion::Survivors{};
  return potion::count_groups_cpu(reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                                  kept ? &survivors : nullptr,
                                  {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)},
                                  reinterpret_cast<std::int64_t*>(table), reinterpret_cast<std::int64_t*>(starts),
                                  threads);
}

template <typename Call>
auto by_index(bool int64, const Call& call) {
  return int64 ? call(std::int64_t()) : call(std::int32_t());
}

void write_groups_cpu(Address forget, Address retain, std::int64_t n, const std::optional<Kept>& kept, Address alphas,
                      std::int64_t K, double dampening, Address table, Address starts, Address index,
                      Address group_forget, Address group_retain, bool int64, int threads) {
  const potion::Survivors survivors = kept ? survivors_at(*kept) : potion::Survivors{};
  by_index(int64, [&](auto type) {
    potion::write_groups_cpu(reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                             kept ? &survivors : nullptr,
                             {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)},
                             reinterpret_cast<const std::int64_t*>(table),
                             reinterpret_cast<const std::int64_t*>(starts), reinterpret_cast<decltype(type)*>(index),
                             reinterpret_cast<float*>(group_forget), reinterpret_cast<float*>(group_retain), threads);
  });
}

bool take_cpu(std::vector<Address> addresses, Sizes sizes, Sizes offsets, Sizes cuts, Address index, bool int64,
              Address values, int threads) {
  const potion::Places places{std::move(addresses), std::move(sizes), std::move(offsets), std::move(cuts)};
  return by_index(int64, [&](auto type) {
    return potion::take_cpu(places, reinterpret_cast<const decltype(type)*>(index), reinterpret_cast<float*>(values),
                            threads);
  });
}

bool put_cpu(std::vector<Address> addresses, Sizes sizes, Sizes offsets, Sizes cuts, Address index, bool int64,
             Address values, int threads) {
  const potion::Places places{std::move(addresses), std::move(sizes), std::move(offsets), std::move(cuts)};
  return by_index(int64, [&](auto type) {
    return potion::put_cpu(places, reinterpret_cast<const decltype(type)*>(index),
                           reinterpret_cast<const float*>(values), threads);
  });
}

#ifdef POTION_CUDA_VERSION

void dampen_many_cuda(Address copies, Address weights, Address forget, Address retain, std::int64_t n, Address alphas,
                      std::int64_t K, double dampening, Address stream) {
  potion::dampen_many_cuda(reinterpret_cast<float*>(copies), reinterpret_cast<const float*>(weights),
                           reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                           {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)}, stream);
}

void select_cuda(Address forget, Address retain, std::int64_t n, const std::vector<double>& percentiles,
                 std::int64_t capacity, Address memory, Address alphas, Address stream) {
  potion::select_cuda(reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n, percentiles,
                      capacity, reinterpret_cast<void*>(memory), reinterpret_cast<float*>(alphas), stream);
}

void count_groups_cuda(Address forget, Address retain, std::int64_t n, Address alphas, std::int64_t K, double dampening,
                       bool selected, std::int64_t capacity, Address memory, Address stream) {
  potion::count_groups_cuda(reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                            {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)}, selected,
                            capacity, reinterpret_cast<void*>(memory), stream);
}

void write_groups_cuda(Address forget, Address retain, std::int64_t n, Address alphas, std::int64_t K, double dampening,
                       const Sizes& starts, std::int64_t capacity, Address memory, Address index, Address group_forget,
                       Address group_retain, bool int64, Address stream) {
  by_index(int64, [&](auto type) {
    potion::write_groups_cuda(reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                              {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)}, starts,
                              capacity, reinterpret_cast<void*>(memory), reinterpret_cast<decltype(type)*>(index),
                              reinterpret_cast<float*>(group_forget), reinterpret_cast<float*>(group_retain), stream);
  });
}

void take_cuda(std::vector<Address> addresses, Sizes sizes, Sizes offsets, Sizes cuts, Address index, bool int64,
               Address values, Address stream) {
  const potion::Places places{std::move(addresses), std::move(sizes), std::move(offsets), std::move(cuts)};
  by_index(int64, [&](auto type) {
    potion::take_cuda(places, reinterpret_cast<const decltype(type)*>(index), reinterpret_cast<float*>(values), stream);
  });
}

void put_cuda(std::vector<Address> addresses, Sizes sizes, Sizes offsets, Sizes cuts, Address index, bool int64,
              Address values, Address stream) {
  const potion::Places places{std::move(addresses), std::move(sizes), std::move(offsets), std::move(cuts)};
  by_index(int64, [&](auto type) {
    potion::put_cuda(places, reinterpret_cast<const decltype(type)*>(index), reinterpret_cast<const float*>(values),
                     stream);
  });
}

#endif

void channels_last_cpu(Address to, Address from, std::int64_t B, std::int64_t C, std::int64_t P, bool float64,
                       int threads) {
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::channels_last_cpu(reinterpret_cast<T*>(to), reinterpret_cast<const T*>(from), B, C, P, threads);
  });
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of potion_fast; see csrc/kernels.h.";
  m.attr("compiler") = POTION_COMPILER;
  m.attr("cpu_instructions") = potion::cpu_instructions();
  m.def("accumulate_cpu", &accumulate<&potion::accumulate_cpu<float>, &potion::accumulate_cpu<double>, int>,
        Unlocked());
  m.def("dampen_cpu", &dampen<&potion::dampen_cpu, int>, Unlocked());
  m.def("dampen_many_cpu", &dampen_many_cpu, Unlocked());
  m.attr("select_block") = potion::kSelectBlock;
  py::enum_<potion::Selected>(m, "Selected")
      .value("done", potion::Selected::kDone)
      .value("missed", potion::Selected::kMissed)
      .value("negative", potion::Selected::kNegative);
  m.def("select_bound_cpu", &select_bound_cpu, Unlocked());
  m.def("select_kept_cpu", &select_kept_cpu, Unlocked());
  m.def("select_all_cpu", &select_all_cpu, Unlocked());
  m.def("count_groups_cpu", &count_groups_cpu, Unlocked());
  m.def("write_groups_cpu", &write_groups_cpu, Unlocked());
  m.def("take_cpu", &take_cpu, Unlocked());
  m.def("put_cpu", &put_cpu, Unlocked());
  m.def("accumulate_linear_cpu", &accumulate_linear_cpu, Unlocked());
  m.def("accumulate_conv_cpu", &accumulate_conv_cpu, Unlocked());
  m.def("channel_sums_cpu", &channel_sums_cpu, Unlocked());
  m.def("row_sums_cpu", &row_sums_cpu, Unlocked());
  m.def("channels_last_cpu", &channels_last_cpu, Unlocked());
  m.def("product_instructions", &potion::product_instructions);
  m.def("limit_product_instructions", &potion::limit_product_instructions);
  m.def("select_instructions", &potion::select_instructions);
  m.def("limit_select_instructions", &potion::limit_select_instructions);
#ifdef POTION_CUDA_VERSION
  m.attr("cuda") = true;
  m.attr("cuda_version") = POTION_CUDA_VERSION;
  m.attr("cuda_architectures") = POTION_CUDA_ARCHITECTURES;
  m.def("cuda_problem", &potion::cuda_problem);
  m.def("accumulate_cuda", &accumulate<&potion::accumulate_cuda<float>, &potion::accumulate_cuda<double>, Address>,
        Unlocked());
  m.def("dampen_cuda", &dampen<&potion::dampen_cuda, Address>, Unlocked());
  m.def("dampen_many_cuda", &dampen_many_cuda, Unlocked());
  m.attr("most_percentiles") = potion::kMostPercentiles;
  m.attr("most_groups") = potion::kMostGroups;
  m.def("ratios_bytes", &potion::ratios_bytes);
  m.def("select_cuda", &select_cuda, Unlocked());
  m.def("count_groups_cuda", &count_groups_cuda, Unlocked());
  m.def("write_groups_cuda", &write_groups_cuda, Unlocked());
  m.def("take_cuda", &take_cuda, Unlocked());
  m.def("put_cuda", &put_cuda, Unlocked());
#else
  m.attr("cuda") = false;
  m.attr("cuda_version") = "";
  m.attr("cuda_architectures") = "";
#endif
}
