// A two-dimensional view: does not own, is trivially copyable, strides count elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace tandem {

template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // elements from one row to the next, >= cols

  MatrixView() = default;
  MatrixView(T* data_in, int64_t rows_in, int64_t cols_in)
      : MatrixView(data_in, rows_in, cols_in, cols_in) {}
  MatrixView(T* data_in, int64_t rows_in, int64_t cols_in, int64_t row_stride_in)
      : data(data_in), rows(rows_in), cols(cols_in), row_stride(row_stride_in) {}
  // MatrixView<const T> from MatrixView<T>.
  template <typename U>
  requires(std::is_same_v<T, const U>)
      MatrixView(const MatrixView<U>& other)  // NOLINT(google-explicit-constructor)
      : MatrixView(other.data, other.rows, other.cols, other.row_stride) {}

  [[nodiscard]] std::span<T> row(int64_t row_idx) const {
    return {data + row_idx * row_stride, static_cast<size_t>(cols)};
  }
  T& operator()(int64_t row_idx, int64_t col_idx) const {
    return data[row_idx * row_stride + col_idx];
  }
  [[nodiscard]] MatrixView first_rows(int64_t num_rows) const {
    return {data, num_rows, cols, row_stride};
  }
  [[nodiscard]] MatrixView rows_from(int64_t row_idx, int64_t num_rows) const {
    return {data + row_idx * row_stride, num_rows, cols, row_stride};
  }
  // Columns [col_idx, col_idx + num_cols) of every row.
  [[nodiscard]] MatrixView columns(int64_t col_idx, int64_t num_cols) const {
    return {data + col_idx, rows, num_cols, row_stride};
  }
};

}  // namespace tandem
