// sums[k][c][tap] += Σ_n w[k][n] · |Σ_t G[n][t][c] · A[n][t under tap][c]|: convolutions with one channel per group.
//
// There is no product of matrices in them. A thread takes some channels, side by side in vectors, and goes through the
// positions tap by tap.
#pragma once

#include <cmath>
#include <cstring>

#include "arguments.h"
#include "cpu/ordered_blocks.h"
#include "cpu/tiles.h"

namespace potion {

template <typename T>
class Depthwise {
 public:
  static constexpr std::int64_t kChannels = 64;  // of a block

  Depthwise(const Totals& totals, const T* inputs, const T* gradients, const Convolution& shape, std::int64_t splits)
      : totals_(totals),
        inputs_(inputs),
        gradients_(gradients),
        s_(shape),
        splits_(splits),
        tiles_(tiles<T>()),
        taps_(shape.kernel[0] * shape.kernel[1] * shape.kernel[2]),
        K_(static_cast<std::int64_t>(totals.sums.size())),
        gradient_((taps_ + 1) * kChannels),
        size_(K_ * (taps_ + 1) * kChannels) {}

  void compute(std::int64_t block, std::int64_t split) {
    first_ = block * kChannels;
    width_ = std::min(kChannels, s_.C - first_);
    const std::int64_t n = (taps_ + 1) * kChannels;
    const T* weights = reinterpret_cast<const T*>(totals_.weights);
    std::memset(size_.get(), 0, K_ * n * sizeof(T));
    for (std::int64_t term = part(s_.N, splits_, split); term < part(s_.N, splits_, split + 1); ++term) {
      T* gradient = gradient_.get();
      std::memset(gradient, 0, n * sizeof(T));
      for (std::int64_t sample = term * s_.samples; sample < (term + 1) * s_.samples; ++sample) correlate(sample);
      for (std::int64_t i = 0; i < n; ++i)
        gradient[i] = totals_.square ? gradient[i] * gradient[i] : std::fabs(gradient[i]);
      for (std::int64_t k = 0; k < K_; ++k) {
        const T weight = weights ? weights[k * s_.N + term] : T(1);
        for (std::int64_t i = 0; i < n; ++i) size_.get()[k * n + i] += weight * gradient[i];
      }
    }
  }

  void add() const {
    for (std::int64_t k = 0; k < K_; ++k) {
      const T* size = size_.get() + k * (taps_ + 1) * kChannels;
      T* sums = reinterpret_cast<T*>(totals_.sums[k]);
      for (std::int64_t c = 0; c < width_; ++c)
        for (std::int64_t tap = 0; tap < taps_; ++tap) sums[(first_ + c) * taps_ + tap] += size[tap * kChannels + c];
      if (totals_.bias.empty()) continue;
      T* bias = reinterpret_cast<T*>(totals_.bias[k]);
      for (std::int64_t c = 0; c < width_; ++c) bias[first_ + c] += size[taps_ * kChannels + c];
    }
  }

 private:
  // Adds the gradient of one sample.
  void correlate(std::int64_t sample) const {
    const auto& in = s_.input;
    const auto& out = s_.output;
    const T* gradients = gradients_ + sample * out[0] * out[1] * out[2] * s_.C + first_;
    for (std::int64_t z = 0; z < out[0]; ++z)
      for (std::int64_t y = 0; y < out[1]; ++y)
        for (std::int64_t tap = 0; tap < taps_; ++tap) {
          const std::int64_t in_z = under(0, z, tap / s_.kernel[2] / s_.kernel[1]);
          const std::int64_t in_y = under(1, y, tap / s_.kernel[2] % s_.kernel[1]);
          const std::int64_t in_x = under(2, 0, tap % s_.kernel[2]), step = s_.stride[2];
          if (in_z < 0 || in_z >= in[0] || in_y < 0 || in_y >= in[1] || in_x >= in[2]) continue;
          const std::int64_t begin = in_x < 0 ? ceil_divide(-in_x, step) : 0;  // positions within the input's row
          const std::int64_t end = std::min((in[2] - 1 - in_x) / step + 1, out[2]);
          if (begin >= end) continue;
          const T* row = inputs_ + ((sample * in[0] + in_z) * in[1] + in_y) * in[2] * s_.C + first_;
          tiles_.correlate(gradients + ((z * out[1] + y) * out[2] + begin) * s_.C, s_.C,
                           row + (in_x + begin * step) * s_.C, step * s_.C, end - begin,
                           gradient_.get() + tap * kChannels, width_);
        }
    if (!totals_.bias.empty())
      tiles_.add_columns(gradients, s_.C, out[0] * out[1] * out[2], gradient_.get() + taps_ * kChannels, width_);
  }

  // The input's position under a tap, in one dimension.
  std::int64_t under(int dimension, std::int64_t output, std::int64_t tap) const {
    return output * s_.stride[dimension] - s_.padding[dimension] + tap * s_.dilation[dimension];
  }

  const Totals& totals_;
  const T* inputs_;
  const T* gradients_;
  const Convolution& s_;
  const std::int64_t splits_;
  const Tiles<T>& tiles_;
  const std::int64_t taps_, K_;
  Scratch<T> gradient_, size_;  // [taps and bias, channels] of a term; [K, ...] the totals
  std::int64_t first_ = 0, width_ = 0;  // channels
};

template <typename T>
void accumulate_depthwise(const Totals& totals, const T* inputs, const T* gradients, const Convolution& shape,
                          int threads) {
  constexpr std::int64_t kTasks = 16, kSplitRows = 1024;
  const std::int64_t rows = shape.samples * shape.output[0] * shape.output[1] * shape.output[2];
  if (shape.N == 0 || rows == 0 || totals.sums.empty()) return;
  const std::int64_t blocks = ceil_divide(shape.C, Depthwise<T>::kChannels);
  const std::int64_t splits = std::min({shape.N, std::max<std::int64_t>(1, shape.N * rows / kSplitRows),
                                        ceil_divide(kTasks, blocks)});
  run_blocks(blocks, splits, threads,
             [&] { return Depthwise<T>(totals, inputs, gradients, shape, splits); });
}

}  // namespace potion
