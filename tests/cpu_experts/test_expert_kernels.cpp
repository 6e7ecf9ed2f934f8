// The kernels by themselves: one product against the naive one, at every number of tokens.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tests/cpu_experts/expert_product.h"

namespace tandem::tests {
namespace {

using cpu_experts::ActivationMode;
using cpu_experts::ExpertKernels;

// Activations of one kind for all tokens, rows of `num_cols`.
enum class Kind { kNormal, kOutliers, kTiny, kZero };
std::vector<bf16> random_rows(int64_t num_tokens,
                              int64_t num_cols,
                              Kind kind,
                              std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<bf16> rows;
  for (int64_t idx = 0; idx < num_tokens * num_cols; ++idx) {
    float value = normal(random);
    if (kind == Kind::kOutliers && idx % 257 == 11) value *= 1e4f;
    if (kind == Kind::kTiny) value *= 1e-30f;
    if (kind == Kind::kZero) value = 0.0f;
    rows.push_back(bf16(value));
  }
  return rows;
}

double relative_error(const OwnedInt4& weights,
                      const bf16* x,
                      int64_t num_tokens,
                      const std::vector<float>& out) {
  double error_squares = 0.0, value_squares = 0.0;
  for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    for (int64_t row = 0; row < weights.out_features; ++row) {
      double value = 0.0;
      for (int64_t col = 0; col < weights.in_features; ++col) {
        value +=
            double{x[token_idx * weights.in_features + col].to_float()} * weights.weight(row, col);
      }
      const double error = out[static_cast<size_t>(token_idx * weights.out_features + row)] - value;
      error_squares += error * error;
      value_squares += value * value;
    }
  }
  return error_squares == 0.0 ? 0.0 : std::sqrt(error_squares / value_squares);
}

const ExpertKernels& kernels_under_test(CpuIsa isa, ActivationMode mode) {
  const std::vector<CpuIsa> supported = supported_isas();
  if (std::find(supported.begin(), supported.end(), isa) == supported.end()) {
    SKIP("this CPU has no " << isa_name(isa));
  }
  return cpu_experts::kernels_of(isa, mode);
}

CpuIsa any_isa() {
  return GENERATE(CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvxVnni, CpuIsa::kAvx512,
                  CpuIsa::kAvx512Vnni, CpuIsa::kAvx512VnniZen4, CpuIsa::kAvx512Bf16,
                  CpuIsa::kAmxBf16);
}

double tolerance(ActivationMode mode) { return mode == ActivationMode::kInt8 ? 8e-3 : 2e-3; }

TEST_CASE("a product equals the naive one for 1 to 70 tokens at awkward sizes", "[cpu_experts]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const CpuIsa isa = any_isa();
  const ExpertKernels& kernels = kernels_under_test(isa, mode);
  std::mt19937 random(21);
  for (const auto& [out_features, in_features] :
       {std::pair{16, 32}, {16, 64}, {48, 96}, {80, 352}}) {
    const OwnedInt4 weights = random_int4(out_features, in_features, random);
    const Product product(kernels, weights);
    const std::vector<bf16> x = random_rows(70, in_features, Kind::kNormal, random);
    const std::vector<float> all = product.run(x.data(), 70);
    INFO(isa_name(isa) << " " << mode_name(mode) << " " << out_features << "x" << in_features);
    CHECK(relative_error(weights, x.data(), 70, all) <= tolerance(mode));
    const bool small = out_features * in_features < 5000;
    for (int64_t num_tokens = 1; num_tokens < 70; ++num_tokens) {
      // Around every tile and pass; all of them where that is cheap.
      if (!small && num_tokens > 9 && num_tokens % 16 > 1) continue;
      const std::vector<float> some = product.run(x.data(), num_tokens);
      REQUIRE(std::equal(some.begin(), some.end(), all.begin()));
    }
  }
}

TEST_CASE("a product keeps its accuracy with outliers of 10^4, tiny and zero activations",
          "[cpu_experts]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const CpuIsa isa = any_isa();
  const ExpertKernels& kernels = kernels_under_test(isa, mode);
  std::mt19937 random(22);
  const OwnedInt4 weights = random_int4(64, 512, random);
  const Product product(kernels, weights);
  for (const Kind kind : {Kind::kOutliers, Kind::kTiny, Kind::kZero}) {
    const std::vector<bf16> x = random_rows(9, 512, kind, random);
    INFO(isa_name(isa) << " " << mode_name(mode) << " kind " << static_cast<int>(kind));
    CHECK(relative_error(weights, x.data(), 9, product.run(x.data(), 9)) <= tolerance(mode));
  }
}

TEST_CASE("a product at K2's dimensions keeps its accuracy", "[cpu_experts][k2_size]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const CpuIsa isa = any_isa();
  const ExpertKernels& kernels = kernels_under_test(isa, mode);
  std::mt19937 random(23);
  const OwnedInt4 weights = random_int4(64, 7168, random);
  const Product product(kernels, weights);
  // A tile of tokens, and several, which pass the columns in slices.
  const std::vector<bf16> x = random_rows(37, 7168, Kind::kNormal, random);
  const std::vector<float> all = product.run(x.data(), 37);
  const std::vector<float> some = product.run(x.data(), 11);
  INFO(isa_name(isa) << " " << mode_name(mode));
  CHECK(relative_error(weights, x.data(), 37, all) <= tolerance(mode));
  CHECK(std::equal(some.begin(), some.end(), all.begin()));
}

TEST_CASE("words give the same bits on every CPU, bytes on all with VNNI and on all without",
          "[cpu_experts]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const CpuIsa isa = GENERATE(CpuIsa::kAvx2, CpuIsa::kAvxVnni, CpuIsa::kAvx512, CpuIsa::kAvx512Vnni,
                              CpuIsa::kAvx512VnniZen4);
  const ExpertKernels& kernels = kernels_under_test(isa, mode);
  std::mt19937 random(24);
  const OwnedInt4 weights = random_int4(48, 416, random);
  const std::vector<bf16> x = random_rows(13, 416, Kind::kOutliers, random);
  const bool is_like_scalar = mode == ActivationMode::kBf16 || mixes_nibbles(isa);
  const ExpertKernels& plain =
      cpu_experts::kernels_of(is_like_scalar ? CpuIsa::kScalar : CpuIsa::kAvx2, mode);
  CHECK(Product(kernels, weights).run(x.data(), 13) == Product(plain, weights).run(x.data(), 13));
}

TEST_CASE("NaN and infinity among the activations reach the output of their token alone",
          "[cpu_experts]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const ExpertKernels& kernels = kernels_under_test(any_isa(), mode);
  std::mt19937 random(25);
  const OwnedInt4 weights = random_int4(16, 128, random);
  const Product product(kernels, weights);
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<bf16> x = random_rows(5, 128, Kind::kNormal, random);
    x[2 * 128 + 77] = bf16(poison);
    const std::vector<float> out = product.run(x.data(), 5);
    for (size_t idx = 0; idx < out.size(); ++idx) {
      if (idx / 16 == 2) continue;
      REQUIRE(std::isfinite(out[idx]));
    }
    CHECK(std::any_of(out.begin() + 32, out.begin() + 48,
                      [](float value) { return !std::isfinite(value); }));
  }
}

TEST_CASE("scales that are zero count as zero, those that are not finite reach their row alone",
          "[cpu_experts]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const ExpertKernels& kernels = kernels_under_test(any_isa(), mode);
  const int64_t num_tokens = GENERATE(3, 20, 40, 64);
  std::mt19937 random(26);
  OwnedInt4 weights = random_int4(48, 128, random);
  const int64_t num_groups = 4;
  for (int64_t group = 0; group < num_groups; ++group) {
    weights.scale[static_cast<size_t>(5 * num_groups + group)] = bf16(0.0f);
  }
  const float poison =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  weights.scale[static_cast<size_t>(21 * num_groups + 1)] = bf16(poison);
  weights.scale[static_cast<size_t>(47 * num_groups + 2)] = bf16(-poison);
  const std::vector<bf16> x = random_rows(num_tokens, 128, Kind::kNormal, random);
  const std::vector<float> out = Product(kernels, weights).run(x.data(), num_tokens);
  for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    for (int64_t row = 0; row < 48; ++row) {
      const float value = out[static_cast<size_t>(token_idx * 48 + row)];
      INFO("token " << token_idx << ", row " << row << ": " << value);
      REQUIRE(std::isfinite(value) == (row != 21 && row != 47));
      if (row == 5) REQUIRE(value == 0.0f);
    }
  }
}

}  // namespace
}  // namespace tandem::tests
