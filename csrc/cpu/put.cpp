// Weights at some places of many parameters, read and written: 12 bytes each, and whole cache lines of the parameters.
#include "arguments.h"
#include "cpu/parallel.h"

namespace potion {
namespace {

constexpr std::int64_t kSmallest = 1 << 14;  // places worth a thread

// each(parameter, places, from, to) for the places [from, to), within one parameter each; whether all lay in theirs.
template <typename Each>
bool for_places(const Places& places, int threads, const Each& each) {
  const std::int64_t m = places.cuts.back();
  const std::int64_t parts = std::clamp<std::int64_t>(m / kSmallest, 1, std::max(threads, 1));
  std::atomic<bool> inside{true};
  run_on_threads(parts, [&](std::int64_t part) {
    const std::int64_t begin = m * part / parts, end = m * (part + 1) / parts;
    bool all = true;
    for (std::size_t p = 0; p < places.addresses.size(); ++p) {
      const std::int64_t from = std::max(begin, places.cuts[p]), to = std::min(end, places.cuts[p + 1]);
      const auto size = static_cast<std::uint64_t>(places.sizes[p]);
      float* const parameter = reinterpret_cast<float*>(places.addresses[p]);
      for (std::int64_t i = from; i < to; ++i) all &= each(parameter, places.offsets[p], size, i);
    }
    if (!all) inside = false;
  });
  return inside;
}

}  // namespace

template <typename Index>
bool take_cpu(const Places& places, const Index* index, float* values, int threads) {
  return for_places(places, threads, [=](float* parameter, std::int64_t offset, std::uint64_t size, std::int64_t i) {
    const auto place = static_cast<std::uint64_t>(index[i] - offset);
    if (place < size) values[i] = parameter[place];
    return place < size;
  });
}

template <typename Index>
bool put_cpu(const Places& places, const Index* index, const float* values, int threads) {
  return for_places(places, threads, [=](float* parameter, std::int64_t offset, std::uint64_t size, std::int64_t i) {
    const auto place = static_cast<std::uint64_t>(index[i] - offset);
    if (place < size) parameter[place] = values[i];
    return place < size;
  });
}

template bool take_cpu(const Places&, const std::int32_t*, float*, int);
template bool take_cpu(const Places&, const std::int64_t*, float*, int);
template bool put_cpu(const Places&, const std::int32_t*, const float*, int);
template bool put_cpu(const Places&, const std::int64_t*, const float*, int);

}  // namespace potion
