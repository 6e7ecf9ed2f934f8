// A second opinion on the packed products, from oneDNN over the weights multiplied out.
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "gpu/host/onednn/onednn_matmul.h"
#include "tests/cpu_experts/expert_product.h"

namespace tandem::tests {
namespace {

TEST_CASE("a packed product agrees with oneDNN's over the weights multiplied out",
          "[cpu_experts][onednn]") {
  std::mt19937 random(31);
  // Weights that BF16 holds exactly: scales are powers of two, so that both sides mean the same.
  OwnedInt4 weights = random_int4(96, 1120, random, Scales::kAlike);
  for (size_t idx = 0; idx < weights.scale.size(); ++idx) {
    weights.scale[idx] = bf16(std::ldexp(1.0f, -6 - static_cast<int>(idx % 3)));
  }
  std::vector<bf16> dense;
  for (int64_t row = 0; row < 96; ++row) {
    for (int64_t col = 0; col < 1120; ++col) dense.push_back(bf16(weights.weight(row, col)));
  }
  const auto mode = cpu_experts::ActivationMode::kBf16;
  const auto& kernels = cpu_experts::kernels_of(cpu_experts::choose_kernels(mode).few, mode);
  const Product product(kernels, weights);
  for (const int64_t num_tokens : {1, 5, 37}) {
    std::normal_distribution<float> normal;
    std::vector<bf16> x;
    for (int64_t idx = 0; idx < num_tokens * 1120; ++idx) x.push_back(bf16(normal(random)));
    gpu::host::OnednnMatmul second(gpu::host::OnednnType::kFloat, num_tokens,
                                   MatrixView<const bf16>(dense.data(), 96, 1120));
    REQUIRE(second.is_supported());
    second.set_input(MatrixView<const bf16>(x.data(), num_tokens, 1120));
    second.run();
    const std::vector<float> ours = product.run(x.data(), num_tokens);
    double error_squares = 0.0, value_squares = 0.0;
    for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
      for (int64_t row = 0; row < 96; ++row) {
        const double theirs = second.out()(token_idx, row);
        const double error = ours[static_cast<size_t>(token_idx * 96 + row)] - theirs;
        error_squares += error * error;
        value_squares += theirs * theirs;
      }
    }
    CHECK(std::sqrt(error_squares) <= 1e-4 * std::sqrt(value_squares));
  }
}

}  // namespace
}  // namespace tandem::tests
