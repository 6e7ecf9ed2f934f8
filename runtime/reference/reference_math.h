// The few operations that the reference model is made of: FP32 values, FP64 sums.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"
#include "runtime/model/checkpoint.h"

namespace tandem::reference {

// FP32 activations of all tokens, row-major: the one owner of data here.
struct Activations {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> data;
  Activations() = default;
  Activations(int64_t rows_in, int64_t cols_in)
      : rows(rows_in), cols(cols_in), data(static_cast<size_t>(rows_in * cols_in), 0.0f) {}
  [[nodiscard]] std::span<float> row(int64_t row_idx) {
    return {data.data() + row_idx * cols, static_cast<size_t>(cols)};
  }
  [[nodiscard]] std::span<const float> row(int64_t row_idx) const {
    return {data.data() + row_idx * cols, static_cast<size_t>(cols)};
  }
};

// Sum of products in FP64 (eight partial sums, which the compiler can keep apart).
double dot(std::span<const float> left, std::span<const float> right);

// fn(idx) for every idx below `num`, on all cores when `num_operations` is worth it. The order is
// free, so that fn(idx) must write places of its own; what it throws is rethrown here.
void parallel_for(int64_t num, int64_t num_operations, const std::function<void(int64_t)>& fn);

void decode_row(MatrixView<const bf16> weights, int64_t row_idx, std::span<float> out);

// y = W x for every row of x.
Activations linear(MatrixView<const bf16> weights, const Activations& x);
Activations linear(const Int4Matrix& weights, const Activations& x);

// Equation 2 without the rounding to BF16: y = g * x / sqrt(mean(x^2) + epsilon). Works on a part
// of the row too: `x` and `y` are the part.
void rms_norm(std::span<const float> x,
              std::span<const bf16> gain,
              float epsilon,
              std::span<float> y);
Activations rms_norm(const Activations& x, std::span<const bf16> gain, float epsilon);

// Equation 11 between the projections: silu(gate) * up, into `gate`.
void silu_multiply(Activations& gate, const Activations& up);

// Equation 5, in place, pairs (2j, 2j+1). The angle is the FP32 product, as in the references.
void rotate(std::span<float> x,
            int64_t position,
            std::span<const float> frequencies,
            float magnitude);

// Softmax in place, FP64.
void softmax(std::span<double> scores);

}  // namespace tandem::reference
