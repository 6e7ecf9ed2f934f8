#include <catch2/catch_test_macros.hpp>

#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {
namespace {
const std::vector<int64_t> kWidths{1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 65, 130, 515};
}

TEST_CASE("rms_norm rounds once what the equation gives", "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  Values values(11);
  for (const int64_t width : kWidths) {
    const TestMatrix<float> x = values.matrix<float>(3, width, 2.0f);
    const std::vector<bf16> weight = values.vector<bf16>(width);
    TestMatrix<bf16> out(3, width);
    device.ops->rms_norm(x.view(), weight, 1e-5f, out.view());
    for (int64_t row = 0; row < 3; ++row) {
      double squares = 0.0;
      for (const float value : x.view().row(row)) squares += double{value} * value;
      const double factor = 1.0 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
      for (int64_t col = 0; col < width; ++col) {
        const double expected =
            double{weight[static_cast<size_t>(col)].to_float()} * x.view()(row, col) * factor;
        // Half a BF16 step; and width + 8 roundings in FP32, which can only tip a tie.
        const double limit = std::abs(expected) *
                             (kBf16UnitRoundoff + static_cast<double>(width + 8) * kUnitRoundoff);
        CHECK(std::abs(out.view()(row, col).to_float() - expected) <= limit);
      }
    }
    CHECK(out.padding_is_untouched());
  }
}

TEST_CASE("add_rms_norm is add, then rms_norm", "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  Values values(19);
  for (const int64_t rows : {1, 3, 40}) {
    const TestMatrix<float> before = values.matrix<float>(rows, 515, 2.0f);
    const std::vector<bf16> weight = values.vector<bf16>(515);
    const TestMatrix<float> first = values.matrix<float>(rows, 515);
    const TestMatrix<float> second = values.matrix<float>(rows, 515);
    for (const std::vector<MatrixView<const float>>& addends :
         {std::vector<MatrixView<const float>>{}, {first.view()}, {first.view(), second.view()}}) {
      TestMatrix<float> expected_x = before;
      TestMatrix<bf16> expected(rows, 515);
      device.ops->add(addends, expected_x.view());
      device.ops->rms_norm(expected_x.view(), weight, 1e-5f, expected.view());
      TestMatrix<float> x = before;
      TestMatrix<bf16> out(rows, 515);
      device.ops->add_rms_norm(addends, x.view(), weight, 1e-5f, out.view());
      CHECK(same_bits(std::span(x.values), std::span(expected_x.values)));
      CHECK(same_bits(std::span(out.values), std::span(expected.values)));
    }
  }
}

TEST_CASE("rms_norm of a row has the same bits in any batch", "[gpu][host][per_isa]") {
  const host::Kernels& kernels = kernels_under_test();
  HostDevice device(3, kernels);
  Values values(12);
  constexpr int64_t kWidth = 7168;
  const TestMatrix<float> x = values.matrix<float>(17, kWidth);
  const std::vector<bf16> weight = values.vector<bf16>(kWidth);
  TestMatrix<bf16> together(17, kWidth);
  TestMatrix<bf16> alone(17, kWidth);
  device.ops->rms_norm(x.view(), weight, 1e-5f, together.view());
  for (int64_t row = 0; row < 17; ++row) {
    device.ops->rms_norm(x.view().rows_from(row, 1), weight, 1e-5f, alone.view().rows_from(row, 1));
    CHECK(same_bits(together.view().row(row), alone.view().row(row)));
  }
}

TEST_CASE("swiglu equals silu(gate) * up over the whole range of its input",
          "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  for (const int64_t width : kWidths) {
    Values values(static_cast<uint32_t>(13 + width));
    for (const float sigma : {0.1f, 4.0f, 40.0f}) {
      const TestMatrix<float> gate_up = values.matrix<float>(2, 2 * width, sigma);
      TestMatrix<bf16> out(2, width);
      device.ops->swiglu(gate_up.view(), out.view());
      for (int64_t row = 0; row < 2; ++row) {
        for (int64_t col = 0; col < width; ++col) {
          const double z = gate_up.view()(row, col);
          const double expected = z / (1.0 + std::exp(-z)) * gate_up.view()(row, width + col);
          // Half a BF16 step, 8 FP32 roundings, and results under exp(-86), which become 0.
          const double limit = std::abs(expected) * (kBf16UnitRoundoff + 8 * kUnitRoundoff) + 1e-33;
          CHECK(std::abs(out.view()(row, col).to_float() - expected) <= limit);
        }
      }
      CHECK(out.padding_is_untouched());
    }
  }
}

TEST_CASE("linear_swiglu is the product of gate and up, then swiglu", "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  Values values(18);
  for (const int64_t rows : {1, 5, 40}) {
    const TestMatrix<bf16> x = values.matrix<bf16>(rows, 48);
    const TestMatrix<bf16> w = values.matrix<bf16>(2 * 33, 48, 0.2f);
    const auto weight = device.ops->load_linear(w.view());
    TestMatrix<float> gate_up(rows, 2 * 33);
    TestMatrix<bf16> expected(rows, 33);
    device.ops->linear(x.view(), *weight, gate_up.view());
    device.ops->swiglu(gate_up.view(), expected.view());
    TestMatrix<float> scratch(rows, 2 * 33);
    TestMatrix<bf16> out(rows, 33);
    device.ops->linear_swiglu(x.view(), *weight, scratch.view(), out.view());
    for (int64_t row = 0; row < rows; ++row) {
      CHECK(same_bits(out.view().row(row), expected.view().row(row)));
    }
    CHECK(out.padding_is_untouched());
  }
}

TEST_CASE("a value of swiglu has the same bits wherever it stands in its row",
          "[gpu][host][per_isa]") {
  HostDevice device(1, kernels_under_test());
  Values values(14);
  const TestMatrix<float> one = values.matrix<float>(1, 2);
  TestMatrix<bf16> expected(1, 1);
  device.ops->swiglu(one.view(), expected.view());
  for (const int64_t width : kWidths) {
    TestMatrix<float> gate_up = values.matrix<float>(1, 2 * width);
    for (int64_t col = 0; col < width; ++col) {
      gate_up.view()(0, col) = one.view()(0, 0);
      gate_up.view()(0, width + col) = one.view()(0, 1);
    }
    TestMatrix<bf16> out(1, width);
    device.ops->swiglu(gate_up.view(), out.view());
    for (const bf16 value : out.view().row(0)) CHECK(value == expected.view()(0, 0));
  }
}

TEST_CASE("narrowing rounds to nearest even and keeps NaN, as bf16 itself",
          "[gpu][host][per_isa]") {
  const host::Kernels& kernels = kernels_under_test();
  std::vector<float> words;
  for (uint32_t upper = 0; upper < 0x10000; upper += 5) {
    for (const uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      words.push_back(std::bit_cast<float>((upper << 16) | lower));
    }
  }
  words.resize(words.size() - 3);  // a tail in every instruction set
  std::vector<uint16_t> rounded(words.size());
  kernels.narrow(words.data(), static_cast<int64_t>(words.size()), rounded.data());
  int64_t num_different = 0;
  for (size_t idx = 0; idx < words.size(); ++idx) {
    num_different += rounded[idx] != bf16(words[idx]).bits;
  }
  CHECK(num_different == 0);
}

TEST_CASE("embed, gather_logit_rows and add move the rows of the batch", "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  Values values(15);
  for (const int64_t width : kWidths) {
    const TestMatrix<bf16> table = values.matrix<bf16>(9, width);
    const std::vector<int32_t> ids{8, 0, 3, 3};
    const std::vector<int32_t> rows{0, 3};
    device.ops->begin_step({.token_ids = ids, .items = {}, .logit_token_idx = rows},
                           MlaForm::kAuto);
    TestMatrix<float> residual(4, width);
    device.ops->embed(table.view(), residual.view());
    const TestMatrix<float> first = values.matrix<float>(4, width);
    const TestMatrix<float> second = values.matrix<float>(4, width);
    TestMatrix<float> sum = residual;
    device.ops->add({}, sum.view());
    CHECK(same_bits(std::span(sum.values), std::span(residual.values)));
    device.ops->add(std::vector{first.view(), second.view()}, sum.view());
    TestMatrix<float> gathered(2, width);
    device.ops->gather_logit_rows(sum.view(), gathered.view());
    int64_t num_wrong = 0;
    for (int64_t col = 0; col < width; ++col) {
      for (int64_t row = 0; row < 4; ++row) {
        const float expected = table.view()(ids[static_cast<size_t>(row)], col).to_float();
        num_wrong += residual.view()(row, col) != expected;
        num_wrong +=
            sum.view()(row, col) != expected + first.view()(row, col) + second.view()(row, col);
      }
      num_wrong += gathered.view()(0, col) != sum.view()(0, col);
      num_wrong += gathered.view()(1, col) != sum.view()(3, col);
    }
    CHECK(num_wrong == 0);
    CHECK(residual.padding_is_untouched());
    CHECK(sum.padding_is_untouched());
    CHECK(gathered.padding_is_untouched());
  }
}

TEST_CASE("wide rows are cut by columns over the threads without a seam", "[gpu][host][per_isa]") {
  HostDevice device(3, kernels_under_test());
  Values values(16);
  constexpr int64_t kWidth = 40'003;
  const TestMatrix<float> addend = values.matrix<float>(1, kWidth);
  TestMatrix<float> sum = values.matrix<float>(1, kWidth);
  const TestMatrix<float> before = sum;
  device.ops->add(std::vector{addend.view()}, sum.view());
  int64_t num_wrong = 0;
  for (int64_t col = 0; col < kWidth; ++col) {
    num_wrong += sum.view()(0, col) != before.view()(0, col) + addend.view()(0, col);
  }
  CHECK(num_wrong == 0);
  CHECK(sum.padding_is_untouched());
}

TEST_CASE("a device receives another's rows and leaves its own gaps alone", "[gpu][host]") {
  const host::Kernels& kernels = *host::supported_kernels().back();
  HostDevice source(1, kernels);
  HostDevice device(2, kernels);
  Values values(17);
  for (const int64_t width : {1, 33, 7168}) {
    const TestMatrix<float> from = values.matrix<float>(5, width);
    TestMatrix<float> to(5, width);
    device.ops->receive(*source.ops, from.view(), to.view());
    device.ops->synchronize();
    CHECK(same_bits(std::span(std::as_const(to).values), std::span(from.values)));
  }
}

TEST_CASE("device memory is zeroed, aligned and holds what was uploaded", "[gpu][host]") {
  HostDevice device(1, *host::supported_kernels().back());
  for (const size_t size_bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{5} << 20}) {
    const auto buffer = device.ops->allocate(size_bytes);
    REQUIRE(buffer->size_bytes() == size_bytes);
    REQUIRE(reinterpret_cast<uintptr_t>(buffer->data()) % 64 == 0);
    size_t num_nonzero = 0;
    for (size_t idx = 0; idx < size_bytes; ++idx)
      num_nonzero += buffer->data()[idx] != std::byte{0};
    CHECK(num_nonzero == 0);

    std::vector<std::byte> bytes(size_bytes);
    for (size_t idx = 0; idx < size_bytes; ++idx) bytes[idx] = static_cast<std::byte>(idx * 7 + 1);
    const auto copy = device.ops->upload(bytes);
    std::vector<std::byte> back(size_bytes);
    device.ops->copy_to_host({copy->data(), size_bytes}, back);
    device.ops->synchronize();
    CHECK(back == bytes);
    const auto host_memory = device.ops->allocate_host(size_bytes);
    REQUIRE(host_memory->size_bytes() == size_bytes);
    device.ops->copy_to_host({copy->data(), size_bytes}, {host_memory->data(), size_bytes});
    device.ops->synchronize();
    CHECK(std::equal(bytes.begin(), bytes.end(), host_memory->data()));
    device.ops->copy_to_device({host_memory->data(), size_bytes}, {buffer->data(), size_bytes});
    device.ops->synchronize();
    CHECK(std::equal(bytes.begin(), bytes.end(), buffer->data()));
  }
}

}  // namespace tandem::gpu::testing
