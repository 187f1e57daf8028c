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
  m.def("accumulate_linear_cpu", &accumulate_linear_cpu, Unlocked());
  m.def("accumulate_conv_cpu", &accumulate_conv_cpu, Unlocked());
  m.def("channel_sums_cpu", &channel_sums_cpu, Unlocked());
  m.def("row_sums_cpu", &row_sums_cpu, Unlocked());
  m.def("channels_last_cpu", &channels_last_cpu, Unlocked());
  m.def("product_instructions", &potion::product_instructions);
  m.def("limit_product_instructions", &potion::limit_product_instructions);
#ifdef POTION_CUDA_VERSION
  m.attr("cuda") = true;
  m.attr("cuda_version") = POTION_CUDA_VERSION;
  m.attr("cuda_architectures") = POTION_CUDA_ARCHITECTURES;
  m.def("cuda_problem", &potion::cuda_problem);
  m.def("accumulate_cuda", &accumulate<&potion::accumulate_cuda<float>, &potion::accumulate_cuda<double>, Address>,
        Unlocked());
  m.def("dampen_cuda", &dampen<&potion::dampen_cuda, Address>, Unlocked());
#else
  m.attr("cuda") = false;
  m.attr("cuda_version") = "";
  m.attr("cuda_architectures") = "";
#endif
}
