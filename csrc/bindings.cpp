// The Python module potion_fast._native: the kernels of every operation, declared, wrapped and bound. It is the only
// file that knows pybind11; the launches in potion_fast/ops are its only callers.
//
// They have checked devices, dtypes, sizes, contiguity and aliasing. Addresses are those of contiguous arrays; sizes
// count elements, not bytes; nothing is kept, and only the two products, `select` and `partition` allocate (their
// scratch memory). The operations are defined in potion_fast/ops/reference.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.h"

namespace py = pybind11;

namespace {

using Address = std::uintptr_t;
using Sizes = std::vector<std::int64_t>;
using Unlocked = py::call_guard<py::gil_scoped_release>;  // arguments are converted before the GIL is released

template <typename Call>
void by_type(bool float64, const Call& call) {
  float64 ? call(double()) : call(float());
}

template <typename Call>
auto by_index(bool int64, const Call& call) {
  return int64 ? call(std::int64_t()) : call(std::int32_t());
}

}  // namespace

// --- accumulate -----------------------------------------------------------------------------------------------------

namespace potion {

// sums[i] += |g[i]|, or g[i]² if `square`.
template <typename T>           // float or double
void accumulate_cpu(T* sums,    // [n]
                    const Gradients& gradients, bool square, int threads);
template <typename T>
void accumulate_cuda(T* sums,   // [n] on the current device
                     const Gradients& gradients, bool square, std::uintptr_t stream);

}  // namespace potion

namespace {

// For both devices: `last` is a number of threads on the CPU and a stream on the GPU.
template <auto float_kernel, auto double_kernel, typename Last>
void accumulate(Address sums, std::vector<Address> addresses, std::vector<std::int64_t> sizes, bool float64,
                bool square, Last last) {
  const potion::Gradients gradients{std::move(addresses), std::move(sizes)};
  if (float64)
    double_kernel(reinterpret_cast<double*>(sums), gradients, square, last);
  else
    float_kernel(reinterpret_cast<float*>(sums), gradients, square, last);
}

}  // namespace

// --- accumulate_linear ----------------------------------------------------------------------------------------------

namespace potion {

// sums[k][o][i] += Σ_n w[k][n] · |Σ_t G[n][t][o] · A[n][t][i]|, or its square if `square`.
template <typename T>                                    // float or double
void accumulate_linear_cpu(const Totals& totals,         // sums: [O, I] each, bias: [O] each
                           const T* inputs,              // [N, T, I]
                           const T* gradients,           // [N, T, O]
                           std::int64_t N, std::int64_t rows, std::int64_t O, std::int64_t I, int threads);

}  // namespace potion

namespace {

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

}  // namespace

// --- accumulate_conv ------------------------------------------------------------------------------------------------

namespace potion {

// As accumulate_linear for a convolution, whose rows are the output positions of `samples` samples.
template <typename T>                                  // float or double
void accumulate_conv_cpu(const Totals& totals,         // sums: [O, C / groups, *kernel] each, bias: [O] each
                         const T* inputs,              // [N · samples, *input, C]
                         const T* gradients,           // [N · samples, *output, O]
                         const Convolution& shape, int threads);

// to[b][p][c] = from[b][c][p]
template <typename T>  // float or double
void channels_last_cpu(T* to, const T* from, std::int64_t B, std::int64_t C, std::int64_t P, int threads);

}  // namespace potion

namespace {

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

void channels_last_cpu(Address to, Address from, std::int64_t B, std::int64_t C, std::int64_t P, bool float64,
                       int threads) {
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::channels_last_cpu(reinterpret_cast<T*>(to), reinterpret_cast<const T*>(from), B, C, P, threads);
  });
}

}  // namespace

// --- channel_sums ---------------------------------------------------------------------------------------------------

namespace potion {

// scale[b][c] = Σ_p g[b][c][p] · (x[b][c][p] − mean[c]) and shift[b][c] = Σ_p g[b][c][p].
template <typename T>                           // float or double
void channel_sums_cpu(T* scale, T* shift,       // [B, C] each
                      const T* inputs,          // [B, C, positions], or [B, positions, C] if `channels_last`
                      const T* gradients,       // the same
                      const T* mean,            // [C]
                      std::int64_t B, std::int64_t C, std::int64_t positions, bool channels_last, int threads);

}  // namespace potion

namespace {

void channel_sums_cpu(Address scale, Address shift, Address inputs, Address gradients, Address mean, std::int64_t B,
                      std::int64_t C, std::int64_t positions, bool channels_last, bool float64, int threads) {
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::channel_sums_cpu(reinterpret_cast<T*>(scale), reinterpret_cast<T*>(shift),
                             reinterpret_cast<const T*>(inputs), reinterpret_cast<const T*>(gradients),
                             reinterpret_cast<const T*>(mean), B, C, positions, channels_last, threads);
  });
}

}  // namespace

// --- row_sums -------------------------------------------------------------------------------------------------------

namespace potion {

// scale[n][c] = Σ_t g[n][t][c] · x̂[n][t][c] and shift[n][c] = Σ_t g[n][t][c], where x̂ is the row x[n][t],
// mean-subtracted if `centred`, divided by √(mean of squares + eps).
template <typename T>                       // float or double
void row_sums_cpu(T* scale, T* shift,       // [N, width] each
                  const T* inputs,          // [N, rows, width]
                  const T* gradients,       // [N, rows, width]
                  std::int64_t N, std::int64_t rows, std::int64_t width, double eps, bool centred, int threads);

}  // namespace potion

namespace {

void row_sums_cpu(Address scale, Address shift, Address inputs, Address gradients, std::int64_t N, std::int64_t rows,
                  std::int64_t width, double eps, bool centred, bool float64, int threads) {
  by_type(float64, [&](auto type) {
    using T = decltype(type);
    potion::row_sums_cpu(reinterpret_cast<T*>(scale), reinterpret_cast<T*>(shift), reinterpret_cast<const T*>(inputs),
                         reinterpret_cast<const T*>(gradients), N, rows, width, eps, centred, threads);
  });
}

}  // namespace

// --- select and partition -------------------------------------------------------------------------------------------

namespace potion {

// Percentiles of forget / retain, and groups of weights by the first candidate that selects them. On the CPU, in that
// order: a bound below the percentiles; the percentiles, from the weights that it leaves, which are kept in memory of
// the caller's, or from all; the number of weights in each group; the groups. None takes numbers with a sign bit.
Bound select_bound_cpu(const float* forget,  // [n]
                       const float* retain,  // [n]
                       std::int64_t n, double lowest);

Selected select_kept_cpu(const float* forget,  // [n]
                         const float* retain,  // [n]
                         std::int64_t n, float bound, const std::vector<double>& percentiles,  // [K], at least one
                         const Survivors& survivors,
                         float* alphas,        // [K]
                         int threads);
Selected select_all_cpu(const float* forget,  // [n]
                        const float* retain,  // [n]
                        std::int64_t n, const std::vector<double>& percentiles,  // [K], at least one
                        float* alphas,        // [K]
                        int threads);

// Candidates by falling α, NaN first, at least one. `survivors` of these arrays, none of α above its bound, or null.
// False where there is a sign bit. The survivors of each block are sorted by group, for `write_groups_cpu`.
bool count_groups_cpu(const float* forget,  // [n]
                      const float* retain,  // [n]
                      std::int64_t n, const Survivors* survivors, const Candidates& candidates,
                      std::int64_t* table,   // [⌈n / kSelectBlock⌉, K], for `write_groups_cpu`
                      std::int64_t* starts,  // [K + 1]
                      int threads);
template <typename Index>                   // std::int32_t or std::int64_t
void write_groups_cpu(const float* forget,  // [n]
                      const float* retain,  // [n]
                      std::int64_t n, const Survivors* survivors, const Candidates& candidates,
                      const std::int64_t* table, const std::int64_t* starts,
                      Index* index,         // [starts[K]]
                      float* group_forget,  // [starts[K]]
                      float* group_retain,  // [starts[K]]
                      int threads);

// On a GPU both work in `memory` on the current device, as many bytes as `ratios_bytes` says.
// With a capacity above 0 the importances are read once, and at most so many weights of the greatest ratios are kept
// there; with 0 they are read several times and none is kept. Afterwards `memory` begins with the report, [1 + K]
// int64: 1 if the kept weights were too few or too many, and the call has to be repeated with capacity 0; else 0 and the
// number of weights in each group. Importances of any sign, any α in any order.
std::int64_t ratios_bytes(std::int64_t n, int K, std::int64_t capacity);
void select_cuda(const float* forget,  // [n]
                 const float* retain,  // [n]
                 std::int64_t n, const std::vector<double>& percentiles,  // [K]
                 std::int64_t capacity, void* memory,
                 float* alphas,        // [K]
                 std::uintptr_t stream);

void count_groups_cuda(const float* forget,  // [n]
                       const float* retain,  // [n]
                       std::int64_t n, const Candidates& candidates,
                       bool selected,        // `memory` is as select_cuda has left it, with these αs
                       std::int64_t capacity, void* memory, std::uintptr_t stream);
template <typename Index>                    // std::int32_t or std::int64_t
void write_groups_cuda(const float* forget,  // [n]
                       const float* retain,  // [n]
                       std::int64_t n, const Candidates& candidates,
                       const std::vector<std::int64_t>& starts,  // [K + 1]
                       std::int64_t capacity,
                       void* memory,         // as count_groups_cuda has left it
                       Index* index,         // [starts[K]]
                       float* group_forget,  // [starts[K]]
                       float* group_retain,  // [starts[K]]
                       std::uintptr_t stream);

}  // namespace potion

namespace {

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

#ifdef POTION_CUDA_VERSION

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

#endif

}  // namespace

// --- take and put ---------------------------------------------------------------------------------------------------

namespace potion {

// values[i] = weight at index[i], and the reverse. False where a place was outside its parameter, and was left out.
template <typename Index>                // std::int32_t or std::int64_t
bool take_cpu(const Places& places, const Index* index, float* values, int threads);
template <typename Index>
bool put_cpu(const Places& places, const Index* index, const float* values, int threads);
// The same for places that all lie in their parameters.
template <typename Index>  // std::int32_t or std::int64_t
void take_cuda(const Places& places, const Index* index, float* values, std::uintptr_t stream);
template <typename Index>
void put_cuda(const Places& places, const Index* index, const float* values, std::uintptr_t stream);

}  // namespace potion

namespace {

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

}  // namespace

// --- dampen ---------------------------------------------------------------------------------------------------------

namespace potion {

// weights[i] *= min(dampening · retain[i] / forget[i], 1) wherever forget[i] > alpha · retain[i].
void dampen_cpu(float* weights,       // [n]
                const float* forget,  // [n]
                const float* retain,  // [n]
                std::int64_t n, float alpha, float dampening, int threads);
void dampen_cuda(float* weights,       // [n] on the current device
                 const float* forget,  // [n]
                 const float* retain,  // [n]
                 std::int64_t n, float alpha, float dampening, std::uintptr_t stream);

}  // namespace potion

namespace {

// For both devices: `last` is a number of threads on the CPU and a stream on the GPU.
template <auto kernel, typename Last>
void dampen(Address weights, Address forget, Address retain, std::int64_t n, double alpha, double dampening,
            Last last) {
  kernel(reinterpret_cast<float*>(weights), reinterpret_cast<const float*>(forget),
         reinterpret_cast<const float*>(retain), n, static_cast<float>(alpha), static_cast<float>(dampening), last);
}

}  // namespace

// --- dampen_many ----------------------------------------------------------------------------------------------------

namespace potion {

// copies[k][i] = weights[i], dampened wherever forget[i] > alphas[k] · retain[i].
void dampen_many_cpu(float* copies,         // [K, n]
                     const float* weights,  // [n]
                     const float* forget,   // [n]
                     const float* retain,   // [n]
                     std::int64_t n, const Candidates& candidates, int threads);
void dampen_many_cuda(float* copies,         // [K, n]
                      const float* weights,  // [n]
                      const float* forget,   // [n]
                      const float* retain,   // [n]
                      std::int64_t n, const Candidates& candidates, std::uintptr_t stream);

}  // namespace potion

namespace {

void dampen_many_cpu(Address copies, Address weights, Address forget, Address retain, std::int64_t n, Address alphas,
                     std::int64_t K, double dampening, int threads) {
  potion::dampen_many_cpu(reinterpret_cast<float*>(copies), reinterpret_cast<const float*>(weights),
                          reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                          {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)}, threads);
}

#ifdef POTION_CUDA_VERSION

void dampen_many_cuda(Address copies, Address weights, Address forget, Address retain, std::int64_t n, Address alphas,
                      std::int64_t K, double dampening, Address stream) {
  potion::dampen_many_cuda(reinterpret_cast<float*>(copies), reinterpret_cast<const float*>(weights),
                           reinterpret_cast<const float*>(forget), reinterpret_cast<const float*>(retain), n,
                           {reinterpret_cast<const float*>(alphas), K, static_cast<float>(dampening)}, stream);
}

#endif

}  // namespace

// --- What this machine has ------------------------------------------------------------------------------------------

namespace potion {

// The instructions that the two products use on this machine: "AVX-512", "AVX2" or "baseline". At most those of the
// name given to `limit_product_instructions`, by which the tests reach the others; "" takes the limit away.
const char* product_instructions();
void limit_product_instructions(const std::string& most);

// The same for the pass that keeps the weights above a bound.
const char* select_instructions();
void limit_select_instructions(const std::string& most);

// The instructions that the CPU kernels use on this machine: "AVX2" or "baseline".
const char* cpu_instructions();

// Why the CUDA kernels cannot run on the current device (its driver, its architecture); empty if they can.
std::string cuda_problem();

}  // namespace potion

// --- The module -----------------------------------------------------------------------------------------------------

namespace {

#ifndef POTION_CUDA_ONLY  // the tests compile the CUDA kernels for the host, and nothing else

void bind_cpu(py::module_& m) {
  m.attr("cpu_instructions") = potion::cpu_instructions();
  m.def("accumulate_cpu", &accumulate<&potion::accumulate_cpu<float>, &potion::accumulate_cpu<double>, int>,
        Unlocked());
  m.def("accumulate_linear_cpu", &accumulate_linear_cpu, Unlocked());
  m.def("accumulate_conv_cpu", &accumulate_conv_cpu, Unlocked());
  m.def("channels_last_cpu", &channels_last_cpu, Unlocked());
  m.def("channel_sums_cpu", &channel_sums_cpu, Unlocked());
  m.def("row_sums_cpu", &row_sums_cpu, Unlocked());
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
  m.def("dampen_cpu", &dampen<&potion::dampen_cpu, int>, Unlocked());
  m.def("dampen_many_cpu", &dampen_many_cpu, Unlocked());
  m.def("product_instructions", &potion::product_instructions);
  m.def("limit_product_instructions", &potion::limit_product_instructions);
  m.def("select_instructions", &potion::select_instructions);
  m.def("limit_select_instructions", &potion::limit_select_instructions);
}

#endif
#ifdef POTION_CUDA_VERSION

void bind_cuda(py::module_& m) {
  m.def("cuda_problem", &potion::cuda_problem);
  m.def("accumulate_cuda", &accumulate<&potion::accumulate_cuda<float>, &potion::accumulate_cuda<double>, Address>,
        Unlocked());
  m.attr("most_percentiles") = potion::kMostPercentiles;
  m.attr("most_groups") = potion::kMostGroups;
  m.def("ratios_bytes", &potion::ratios_bytes);
  m.def("select_cuda", &select_cuda, Unlocked());
  m.def("count_groups_cuda", &count_groups_cuda, Unlocked());
  m.def("write_groups_cuda", &write_groups_cuda, Unlocked());
  m.def("take_cuda", &take_cuda, Unlocked());
  m.def("put_cuda", &put_cuda, Unlocked());
  m.def("dampen_cuda", &dampen<&potion::dampen_cuda, Address>, Unlocked());
  m.def("dampen_many_cuda", &dampen_many_cuda, Unlocked());
}

#endif

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled kernels of potion_fast; see csrc/bindings.cpp.";
  m.attr("compiler") = POTION_COMPILER;
#ifndef POTION_CUDA_ONLY
  bind_cpu(m);
#endif
#ifdef POTION_CUDA_VERSION
  m.attr("cuda") = true;
  m.attr("cuda_version") = POTION_CUDA_VERSION;
  m.attr("cuda_architectures") = POTION_CUDA_ARCHITECTURES;
  bind_cuda(m);
#else
  m.attr("cuda") = false;
  m.attr("cuda_version") = "";
  m.attr("cuda_architectures") = "";
#endif
}
