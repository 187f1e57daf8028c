// sums[k] += Σ_n w[k][n] · |weight gradient of term n| for a convolution (eq. 3 and 4), or its square (eq. 1).
//
// The weight gradient is G[n]ᵀ · columns of A[n], where the columns are the inputs under each tap. They are gathered
// while they are packed, a few hundred rows at a time; stride, padding and dilation are known nowhere else.
#include <array>

#include "cpu/depthwise.h"
#include "cpu/product.h"

namespace potion {
namespace {

std::int64_t size(const std::vector<std::int64_t>& sizes) { return sizes[0] * sizes[1] * sizes[2]; }

// The columns of one group, in the order (channels by 32, tap, channel): neighbours lie together in `inputs`, and a
// block of columns together in `sums`, where the order is (channel, tap).
template <typename T>
class Columns {
 public:
  Columns(const T* inputs,  // [N · samples, z, y, x, C]
          const Convolution& shape, const Tiles<T>& tiles)
      : inputs_(inputs), s_(shape), tiles_(tiles), channels_(shape.C / shape.groups), taps_(size(shape.kernel)) {}

  void reserve(std::int64_t columns) { runs_.reserve(columns); }

  void begin(std::int64_t group, std::int64_t first, std::int64_t last, std::int64_t wide) {
    group_ = group;
    first_ = first;
    wide_ = wide;
    runs_.clear();
    for (std::int64_t i = first; i < std::min(last, channels_ * taps_); ++i) {
      const auto [channel, tap] = place(i);
      const std::int64_t x = tap % s_.kernel[2], zy = tap / s_.kernel[2];
      const std::int64_t offset =
          (x * s_.dilation[2] - s_.padding[2]) * s_.C + group * channels_ + channel;  // from the row's beginning
      const std::int64_t panel = (i - first) / wide, at = (i - first) % wide;
      Run* run = runs_.empty() ? nullptr : &runs_.back();
      if (run && run->panel == panel && run->zy == zy && run->offset + run->length == offset) {
        ++run->length;
      } else {
        runs_.push_back({panel, at, zy, offset, 1, 0, 0});
      }
    }
    // Output positions at which all of a run lies within the input's row.
    const std::int64_t row = s_.input[2] * s_.C, step = s_.stride[2] * s_.C;
    for (Run& run : runs_) {
      const std::int64_t before = std::max<std::int64_t>(-run.offset, 0);
      run.first_x = std::min(ceil_divide(before, step), s_.output[2]);
      const std::int64_t room = row - run.length - run.offset;
      run.last_x = std::clamp<std::int64_t>(room < 0 ? 0 : room / step + 1, run.first_x, s_.output[2]);
    }
  }

  void pack(std::int64_t row, std::int64_t rows, T* panels, std::int64_t stride) const {
    const std::int64_t X = s_.output[2], Y = s_.output[1], Z = s_.output[0];
    for (std::int64_t done = 0; done < rows;) {  // the part of one row of the output
      const std::int64_t x = (row + done) % X, y = (row + done) / X % Y, z = (row + done) / X / Y % Z;
      const std::int64_t sample = (row + done) / X / Y / Z;
      const std::int64_t count = std::min(X - x, rows - done);
      for (const Run& run : runs_) {
        T* to = panels + run.panel * stride + done * wide_ + run.at;
        const std::int64_t in_y = y * s_.stride[1] - s_.padding[1] + run.zy % s_.kernel[1] * s_.dilation[1];
        const std::int64_t in_z = z * s_.stride[0] - s_.padding[0] + run.zy / s_.kernel[1] * s_.dilation[0];
        if (in_y < 0 || in_y >= s_.input[1] || in_z < 0 || in_z >= s_.input[0])
          zero(to, count, run.length);
        else
          gather(inputs_ + ((sample * s_.input[0] + in_z) * s_.input[1] + in_y) * s_.input[2] * s_.C, run, x, count,
                 to);
      }
      done += count;
    }
  }

  // Every panel takes other pixels, since the panels of all taps read the same ones.
  Ahead next(std::int64_t row, std::int64_t panel, std::int64_t line, std::int64_t rows) const {
    const std::int64_t y = row / s_.output[2] % s_.output[1] * s_.stride[1];
    const std::int64_t z = row / s_.output[2] / s_.output[1] % s_.output[0] * s_.stride[0];
    const std::int64_t sample = row / size(s_.output);
    const auto [channel, tap] = place(first_ + panel * wide_);
    const std::int64_t pixel = ((sample * s_.input[0] + z) * s_.input[1] + y) * s_.input[2] + tap * rows;
    return {address(inputs_) + (pixel * s_.C + group_ * channels_ + channel) * sizeof(T) + line * 64,
            s_.C * static_cast<std::int64_t>(sizeof(T))};
  }

  void add(T* sum, const T* total, std::int64_t o, std::int64_t height, std::int64_t first, std::int64_t width,
           std::int64_t total_stride) const {
    std::array<std::int64_t, 64> to;  // of every column, for all rows
    for (std::int64_t i = 0; i < width; ++i) {
      const auto [channel, tap] = place(first + i);
      to[i] = channel * taps_ + tap;
    }
    sum += o * channels_ * taps_;
    for (; height > 0; --height, sum += channels_ * taps_, total += total_stride)
      for (std::int64_t i = 0; i < width; ++i) sum[to[i]] += total[i];
  }

 private:
  // Columns of a panel that follow each other in memory.
  struct Run {
    std::int64_t panel, at;  // its first column
    std::int64_t zy;         // its tap in z and y
    std::int64_t offset;     // of its first number from the input under the output's x = 0
    std::int64_t length;
    std::int64_t first_x, last_x;
  };

  // The channel and the tap of a column.
  std::pair<std::int64_t, std::int64_t> place(std::int64_t i) const {
    constexpr std::int64_t kTogether = 32;
    const std::int64_t block = i / (kTogether * taps_) * kTogether, rest = i - block * taps_;
    const std::int64_t together = std::min(kTogether, channels_ - block);
    return {block + rest % together, rest / together};
  }

  void gather(const T* row, const Run& run, std::int64_t x, std::int64_t count, T* to) const {
    const std::int64_t step = s_.stride[2] * s_.C, end = x + count;
    const auto at_border = [&](std::int64_t until) {
      for (; x < until; ++x, to += wide_) {
        const std::int64_t start = x * step + run.offset;
        const std::int64_t from = std::clamp<std::int64_t>(-start, 0, run.length);
        const std::int64_t last = std::clamp<std::int64_t>(s_.input[2] * s_.C - start, from, run.length);
        std::memset(to, 0, run.length * sizeof(T));
        if (from < last) std::memcpy(to + from, row + start + from, (last - from) * sizeof(T));
      }
    };
    at_border(std::min(end, run.first_x));
    const std::int64_t inside = std::min(end, run.last_x) - x;
    if (inside > 0) {
      tiles_.copy_rows(row + x * step + run.offset, step, to, wide_, inside, run.length);
      x += inside;
      to += inside * wide_;
    }
    at_border(end);
  }

  void zero(T* to, std::int64_t rows, std::int64_t length) const {
    for (; rows > 0; --rows, to += wide_) std::memset(to, 0, length * sizeof(T));
  }

  const T* inputs_;
  const Convolution& s_;
  const Tiles<T>& tiles_;
  const std::int64_t channels_, taps_;
  std::vector<Run> runs_;
  std::int64_t group_ = 0, first_ = 0, wide_ = 0;
};

}  // namespace

template <typename T>
void accumulate_conv_cpu(const Totals& totals, const T* inputs, const T* gradients, const Convolution& shape,
                         int threads) {
  if (shape.C == shape.groups && shape.O == shape.groups)
    return accumulate_depthwise(totals, inputs, gradients, shape, threads);
  const Product<T> product{shape.N,
                           shape.samples * size(shape.output),
                           shape.O / shape.groups,
                           shape.C / shape.groups * size(shape.kernel),
                           shape.groups,
                           gradients,
                           totals};
  const Tiles<T>& tiles = potion::tiles<T>();
  multiply(product, tiles, Columns<T>(inputs, shape, tiles), threads);
}

template void accumulate_conv_cpu(const Totals&, const float*, const float*, const Convolution&, int);
template void accumulate_conv_cpu(const Totals&, const double*, const double*, const Convolution&, int);

}  // namespace potion
