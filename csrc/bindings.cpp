// The Python module potion_fast._native. The only file that knows pybind11; potion_fast/ops.py is its only caller.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "kernels.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;
using Unlocked = py::call_guard<py::gil_scoped_release>;  // arguments are converted before the GIL is released

void accumulate_cpu(Address sums, std::vector<Address> addresses, std::vector<std::int64_t> sizes, bool float64,
                    bool square, int threads) {
  const potion::Gradients gradients{std::move(addresses), std::move(sizes)};
  if (float64)
    potion::accumulate_cpu(reinterpret_cast<double*>(sums), gradients, square, threads);
  else
    potion::accumulate_cpu(reinterpret_cast<float*>(sums), gradients, square, threads);
}

void dampen_cpu(Address weights, Address forget, Address retain, std::int64_t n, double alpha, double dampening,
                int threads) {
  potion::dampen_cpu(reinterpret_cast<float*>(weights), reinterpret_cast<const float*>(forget),
                     reinterpret_cast<const float*>(retain), n, static_cast<float>(alpha),
                     static_cast<float>(dampening), threads);
}

#ifdef POTION_CUDA_VERSION
void accumulate_cuda(Address sums, std::vector<Address> addresses, std::vector<std::int64_t> sizes, bool float64,
                     bool square, Address stream) {
  const potion::Gradients gradients{std::move(addresses), std::move(sizes)};
  if (float64)
    potion::accumulate_cuda(reinterpret_cast<double*>(sums), gradients, square, stream);
  else
    potion::accumulate_cuda(reinterpret_cast<float*>(sums), gradients, square, stream);
}

void dampen_cuda(Address weights, Address forget, Address retain, std::int64_t n, double alpha, double dampening,
                 Address stream) {
  potion::dampen_cuda(reinterpret_cast<float*>(weights), reinterpret_cast<const float*>(forget),
                      reinterpret_cast<const float*>(retain), n, static_cast<float>(alpha),
                      static_cast<float>(dampening), stream);
}
#endif

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of potion_fast; see csrc/kernels.h.";
  m.attr("compiler") = POTION_COMPILER;
  m.attr("cpu_instructions") = potion::cpu_instructions();
  m.def("accumulate_cpu", &accumulate_cpu, Unlocked());
  m.def("dampen_cpu", &dampen_cpu, Unlocked());
#ifdef POTION_CUDA_VERSION
  m.attr("cuda") = true;
  m.attr("cuda_version") = POTION_CUDA_VERSION;
  m.attr("cuda_architectures") = POTION_CUDA_ARCHITECTURES;
  m.def("cuda_problem", &potion::cuda_problem);
  m.def("accumulate_cuda", &accumulate_cuda, Unlocked());
  m.def("dampen_cuda", &dampen_cuda, Unlocked());
#else
  m.attr("cuda") = false;
  m.attr("cuda_version") = "";
  m.attr("cuda_architectures") = "";
#endif
}
