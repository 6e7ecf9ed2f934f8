#include <catch2/catch_test_macros.hpp>

#include "gpu/host/onednn/onednn_matmul.h"
#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {

TEST_CASE("linear agrees with oneDNN within the rounding of both", "[gpu][host][onednn]") {
  const host::OnednnType type = GENERATE(host::OnednnType::kFloat, host::OnednnType::kBf16);
  HostDevice device(2, *host::supported_kernels().back());
  Values values(51);
  constexpr int64_t kOut = 130;
  constexpr int64_t kIn = 1111;
  const TestMatrix<bf16> w = values.matrix<bf16>(kOut, kIn);
  const auto weight = device.ops->load_linear(w.view());
  for (const int64_t rows : {1, 7, 96}) {
    host::OnednnMatmul second(type, rows, w.view());
    if (!second.is_supported()) SKIP("oneDNN has no such product on this CPU");
    const TestMatrix<bf16> x = values.matrix<bf16>(rows, kIn);
    TestMatrix<float> ours(rows, kOut);
    device.ops->linear(x.view(), *weight, ours.view());
    second.set_input(x.view());
    second.run();
    int64_t num_wrong = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < kOut; ++col) {
        double absolute = 0.0;
        for (int64_t k = 0; k < kIn; ++k) {
          absolute +=
              std::abs(double{x.view()(row, k).to_float()} * double{w.view()(col, k).to_float()});
        }
        // Each side is a sum of kIn exact products, rounded at most twice a term in any order.
        const double limit = 2.0 * 2.0 * static_cast<double>(kIn + 1) * kUnitRoundoff * absolute;
        num_wrong += !(std::abs(ours.view()(row, col) - second.out()(row, col)) <= limit);
      }
    }
    INFO("rows " << rows);
    CHECK(num_wrong == 0);
  }
}

}  // namespace tandem::gpu::testing
