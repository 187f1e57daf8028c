// sums[k] += Σ_n w[k][n] · |G[n]ᵀ · A[n]| for the weight of a linear layer (eq. 3 and 4), or its square (eq. 1).
#include "cpu/product.h"

namespace potion {
namespace {

// A as it lies in memory.
template <typename T>
class Rows {
 public:
  Rows(const T* inputs,  // [N · T, I]
       std::int64_t I, const Tiles<T>& tiles)
      : inputs_(inputs), I_(I), tiles_(tiles) {}

  void reserve(std::int64_t columns) { begins_.reserve(columns + 1); }

  void begin(std::int64_t /*group*/, std::int64_t first, std::int64_t last, std::int64_t wide) {
    first_ = first;
    begins_.clear();
    for (std::int64_t i = first; i < std::min(last, I_); i += wide) begins_.push_back(i - first);
    begins_.push_back(std::min(last, I_) - first);
  }

  void pack(std::int64_t row, std::int64_t rows, T* panels, std::int64_t stride) const {
    const std::int64_t count = static_cast<std::int64_t>(begins_.size()) - 1;
    tiles_.pack_inputs(inputs_ + row * I_ + first_, I_, rows, begins_.data(), count, panels, stride);
  }

  Ahead next(std::int64_t row, std::int64_t panel, std::int64_t line, std::int64_t /*rows*/) const {
    return {address(inputs_) + (row * I_ + first_ + begins_[panel]) * sizeof(T) + line * 64,
            I_ * static_cast<std::int64_t>(sizeof(T))};
  }

  void add(T* sum, const T* total, std::int64_t o, std::int64_t height, std::int64_t first, std::int64_t width,
           std::int64_t total_stride) const {
    sum += o * I_ + first;
    for (; height > 0; --height, sum += I_, total += total_stride)
      for (std::int64_t i = 0; i < width; ++i) sum[i] += total[i];
  }

 private:
  const T* inputs_;
  std::int64_t I_;
  const Tiles<T>& tiles_;
  std::int64_t first_ = 0;
  std::vector<std::int64_t> begins_;  // of the panels, counted from `first_`
};

}  // namespace

template <typename T>
void accumulate_linear_cpu(const Totals& totals, const T* inputs, const T* gradients, std::int64_t N,
                           std::int64_t rows, std::int64_t O, std::int64_t I, int threads) {
  const Product<T> product{N, rows, O, I, 1, gradients, totals};
  const Tiles<T>& tiles = potion::tiles<T>();
  multiply(product, tiles, Rows<T>(inputs, I, tiles), threads);
}

template void accumulate_linear_cpu(const Totals&, const float*, const float*, std::int64_t, std::int64_t,
                                    std::int64_t, std::int64_t, int);
template void accumulate_linear_cpu(const Totals&, const double*, const double*, std::int64_t, std::int64_t,
                                    std::int64_t, std::int64_t, int);

}  // namespace potion
