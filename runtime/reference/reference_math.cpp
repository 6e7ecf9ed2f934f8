#include "runtime/reference/reference_math.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

#include "runtime/base/check.h"
#include "runtime/model/int4_encoder.h"

namespace tandem::reference {

namespace {

// One row of W is decoded once and multiplied with every token.
template <typename DecodeRow>
Activations linear_rows(int64_t out_features,
                        int64_t in_features,
                        const Activations& x,
                        const DecodeRow& decode) {
  TANDEM_CHECK(x.cols == in_features, "linear: width of the input");
  Activations y(x.rows, out_features);
  parallel_for(out_features, out_features * in_features * (x.rows + 1), [&](int64_t out_idx) {
    thread_local std::vector<float> weights;
    weights.resize(static_cast<size_t>(in_features));
    decode(out_idx, std::span<float>(weights));
    for (int64_t token_idx = 0; token_idx < x.rows; ++token_idx) {
      y.row(token_idx)[out_idx] = static_cast<float>(dot(weights, x.row(token_idx)));
    }
  });
  return y;
}

}  // namespace

double dot(std::span<const float> left, std::span<const float> right) {
  TANDEM_ASSERT(left.size() == right.size(), "dot: sizes");
  std::array<double, 8> sums = {};
  size_t idx = 0;
  for (; idx + sums.size() <= left.size(); idx += sums.size()) {
    for (size_t lane_idx = 0; lane_idx < sums.size(); ++lane_idx) {
      sums[lane_idx] += double{left[idx + lane_idx]} * double{right[idx + lane_idx]};
    }
  }
  double sum = 0.0;
  for (; idx < left.size(); ++idx) sum += double{left[idx]} * double{right[idx]};
  for (const double lane : sums) sum += lane;
  return sum;
}

void parallel_for(int64_t num, int64_t num_operations, const std::function<void(int64_t)>& fn) {
  constexpr int64_t kOperationsPerThread = 1 << 20;
  const int64_t num_threads = std::min(
      {int64_t{std::thread::hardware_concurrency()}, num_operations / kOperationsPerThread, num});
  if (num_threads <= 1) {
    for (int64_t idx = 0; idx < num; ++idx) fn(idx);
    return;
  }
  const int64_t block = std::max<int64_t>(1, num / (num_threads * 8));
  std::atomic<int64_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&]() noexcept {
    for (int64_t begin = next.fetch_add(block); begin < num; begin = next.fetch_add(block)) {
      try {
        for (int64_t idx = begin; idx < std::min(begin + block, num); ++idx) fn(idx);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next = num;
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int64_t thread_idx = 1; thread_idx < num_threads; ++thread_idx) threads.emplace_back(work);
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

void decode_row(MatrixView<const bf16> weights, int64_t row_idx, std::span<float> out) {
  std::ranges::transform(weights.row(row_idx), out.begin(), &bf16::to_float);
}

Activations linear(MatrixView<const bf16> weights, const Activations& x) {
  return linear_rows(weights.rows, weights.cols, x, [&](int64_t row_idx, std::span<float> out) {
    decode_row(weights, row_idx, out);
  });
}

Activations linear(const Int4Matrix& weights, const Activations& x) {
  return linear_rows(
      weights.out_features(), weights.in_features(), x,
      [&](int64_t row_idx, std::span<float> out) { decode_int4_row(weights, row_idx, out); });
}

void rms_norm(std::span<const float> x,
              std::span<const bf16> gain,
              float epsilon,
              std::span<float> y) {
  const double mean_square = dot(x, x) / static_cast<double>(x.size());
  const double factor = 1.0 / std::sqrt(mean_square + double{epsilon});
  for (size_t idx = 0; idx < x.size(); ++idx) {
    y[idx] = static_cast<float>(double{gain[idx].to_float()} * (double{x[idx]} * factor));
  }
}

Activations rms_norm(const Activations& x, std::span<const bf16> gain, float epsilon) {
  Activations y(x.rows, x.cols);
  for (int64_t token_idx = 0; token_idx < x.rows; ++token_idx) {
    rms_norm(x.row(token_idx), gain, epsilon, y.row(token_idx));
  }
  return y;
}

void silu_multiply(Activations& gate, const Activations& up) {
  for (size_t idx = 0; idx < gate.data.size(); ++idx) {
    const double value = gate.data[idx];
    gate.data[idx] = static_cast<float>(value / (1.0 + std::exp(-value)) * double{up.data[idx]});
  }
}

void rotate(std::span<float> x,
            int64_t position,
            std::span<const float> frequencies,
            float magnitude) {
  for (size_t pair_idx = 0; pair_idx < frequencies.size(); ++pair_idx) {
    const float angle = static_cast<float>(position) * frequencies[pair_idx];
    const double cosine = std::cos(double{angle}) * double{magnitude};
    const double sine = std::sin(double{angle}) * double{magnitude};
    const double even = x[2 * pair_idx];
    const double odd = x[2 * pair_idx + 1];
    x[2 * pair_idx] = static_cast<float>(even * cosine - odd * sine);
    x[2 * pair_idx + 1] = static_cast<float>(odd * cosine + even * sine);
  }
}

void softmax(std::span<double> scores) {
  const double max = *std::ranges::max_element(scores);
  double sum = 0.0;
  for (double& score : scores) sum += (score = std::exp(score - max));
  for (double& score : scores) score /= sum;
}

}  // namespace tandem::reference
