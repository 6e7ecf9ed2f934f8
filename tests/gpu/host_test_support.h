// What the tests of gpu/host share: kernels of every instruction set, pools, seeded values.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gpu/host/dispatch.h"
#include "gpu/host/host_ops.h"
#include "gpu/ops.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::gpu::testing {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr double kUnitRoundoff = 0x1p-24;     // FP32, to nearest
inline constexpr double kBf16UnitRoundoff = 0x1p-8;  // BF16, to nearest: 8 bits of significand

// Runs the test case once per instruction set; one that this CPU lacks is skipped, by name.
inline const host::Kernels& kernels_under_test() {
  const std::string isa_name = GENERATE("scalar", "avx2", "avx512", "avx512_bf16", "amx_bf16");
  const host::Kernels* found = nullptr;
  for (const host::Kernels* kernels : host::supported_kernels()) {
    if (isa_name == kernels->isa_name) found = kernels;
  }
  if (found == nullptr) SKIP("this CPU has no " << isa_name);
  UNSCOPED_INFO("kernels: " << isa_name);
  return *found;
}

inline WorkerPool make_pool(int num_threads) {
  return WorkerPool(Topology::detect(), {.num_threads = num_threads, .pin = false});
}

// An Ops with its own pool.
struct HostDevice {
  HostDevice(int num_threads, const host::Kernels& kernels)
      : pool(make_pool(num_threads)), ops(host::make_host_ops(pool, kernels)) {}
  WorkerPool pool;
  std::unique_ptr<Ops> ops;
};

// A matrix whose rows lie `padding` elements apart, NaN between them and behind the last.
template <typename T>
struct TestMatrix {
  TestMatrix(int64_t rows_in, int64_t cols_in, int64_t padding = 3)
      : rows(rows_in),
        cols(cols_in),
        stride(cols_in + padding),
        values(static_cast<size_t>(rows_in * stride + padding), T(kNan)) {}
  [[nodiscard]] MatrixView<T> view() { return {values.data(), rows, cols, stride}; }
  [[nodiscard]] MatrixView<const T> view() const { return {values.data(), rows, cols, stride}; }
  [[nodiscard]] bool padding_is_untouched() const {
    for (size_t idx = 0; idx < values.size(); ++idx) {
      const auto col = static_cast<int64_t>(idx) % stride;
      const bool inside = col < cols && static_cast<int64_t>(idx) / stride < rows;
      if (!inside && !std::isnan(static_cast<float>(values[idx]))) return false;
    }
    return true;
  }
  int64_t rows;
  int64_t cols;
  int64_t stride;
  std::vector<T> values;
};

class Values {
 public:
  explicit Values(uint32_t seed) : engine_(seed) {}
  float next(float sigma = 1.0f) { return normal_(engine_) * sigma; }
  int32_t below(int32_t limit) {
    return static_cast<int32_t>(engine_() % static_cast<uint32_t>(limit));
  }
  template <typename T>
  void fill(MatrixView<T> matrix, float sigma = 1.0f) {
    for (int64_t row = 0; row < matrix.rows; ++row) {
      for (T& value : matrix.row(row)) value = T(next(sigma));
    }
  }
  template <typename T>
  TestMatrix<T> matrix(int64_t rows, int64_t cols, float sigma = 1.0f) {
    TestMatrix<T> result(rows, cols);
    fill(result.view(), sigma);
    return result;
  }
  template <typename T>
  std::vector<T> vector(int64_t num, float sigma = 1.0f) {
    std::vector<T> result(static_cast<size_t>(num));
    for (T& value : result) value = T(next(sigma));
    return result;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

template <typename A, typename B>
bool same_bits(std::span<A> a, std::span<B> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace tandem::gpu::testing
