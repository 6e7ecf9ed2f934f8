// What the tests of the CUDA kernels share: runs of a kernel on the CPU in several orders of
// threads, buffers of device-like alignment, comparison with a limit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "tests/gpu/host_test_support.h"
#include "tests/gpu/simt/emulated_cta.h"

namespace tandem::gpu::testing {

// Runs the test case once per order of threads.
inline simt::ThreadOrder order_under_test() {
  const simt::ThreadOrder order = GENERATE(simt::ThreadOrder::kForward, simt::ThreadOrder::kReverse,
                                           simt::ThreadOrder::kShuffled);
  UNSCOPED_INFO("order of threads: " << static_cast<int>(order));
  return order;
}

// Values from a 16-byte boundary on, NaN (all bits set) before the test fills them.
template <typename T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(int64_t num)
      : num_(num), words_((static_cast<size_t>(num) * sizeof(T) + 15) / 16) {
    std::memset(words_.data(), 0xff, words_.size() * sizeof(simt::Words4));
  }
  [[nodiscard]] T* data() { return reinterpret_cast<T*>(words_.data()); }
  [[nodiscard]] const T* data() const { return reinterpret_cast<const T*>(words_.data()); }
  [[nodiscard]] std::span<T> values() { return {data(), static_cast<size_t>(num_)}; }
  [[nodiscard]] std::span<const T> values() const { return {data(), static_cast<size_t>(num_)}; }
  T& operator[](int64_t idx) { return data()[idx]; }
  const T& operator[](int64_t idx) const { return data()[idx]; }

 private:
  int64_t num_;
  std::vector<simt::Words4> words_;
};

// A matrix with aligned rows, NaN between them: a row stride of a multiple of 8 elements and at
// least one unit of padding.
template <typename T>
struct AlignedMatrix {
  AlignedMatrix(int64_t rows_in, int64_t cols_in)
      : rows(rows_in), cols(cols_in), stride((cols_in + 7) / 8 * 8 + 8), buffer(rows_in * stride) {}
  [[nodiscard]] MatrixView<T> view() { return {buffer.data(), rows, cols, stride}; }
  [[nodiscard]] MatrixView<const T> view() const { return {buffer.data(), rows, cols, stride}; }
  [[nodiscard]] bool padding_is_untouched() const {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = cols; col < stride; ++col) {
        const T& value = buffer[row * stride + col];
        uint16_t half;
        std::memcpy(&half, &value, sizeof half);
        if (half != 0xffff) return false;
      }
    }
    return true;
  }
  int64_t rows;
  int64_t cols;
  int64_t stride;
  AlignedBuffer<T> buffer;
};

template <typename T>
AlignedMatrix<T> aligned_matrix(Values& values, int64_t rows, int64_t cols, float sigma = 1.0f) {
  AlignedMatrix<T> result(rows, cols);
  values.fill(result.view(), sigma);
  return result;
}

}  // namespace tandem::gpu::testing
