// The emulator itself: its collectives do what the PTX ISA says, and each of its checks fires.
#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

using Body = FunctionRef<void(simt::EmulatedCta&)>;

void run(Body body,
         simt::LaunchShape shape,
         simt::ThreadOrder order = simt::ThreadOrder::kForward) {
  simt::EmulatedBlock block(shape, order);
  block.run(0, 0, 0, [&](simt::EmulatedBlock& running, int thread_idx) {
    simt::EmulatedCta cta(running, thread_idx);
    cta.wait_for_previous();
    body(cta);
  });
}

void check_fails(Body body, const std::string& why, int num_threads = 32) {
  CHECK_THROWS_WITH(run(body, {.num_threads = num_threads, .shared_size_bytes = 1024}),
                    Catch::Matchers::ContainsSubstring(why));
}

TEST_CASE("a barrier orders every thread of a CTA", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  std::vector<int> seen(96, 0);
  run(
      [&](simt::EmulatedCta& cta) {
        const auto shared = cta.shared<int32_t>(0, 96);
        shared.store(cta.thread_idx(), cta.thread_idx());
        cta.sync();
        seen[static_cast<size_t>(cta.thread_idx())] = shared.load(95 - cta.thread_idx());
        cta.sync();
        shared.store(cta.thread_idx(), 0);
      },
      {.num_threads = 96, .shared_size_bytes = 384}, order);
  for (int idx = 0; idx < 96; ++idx) CHECK(seen[static_cast<size_t>(idx)] == 95 - idx);
}

TEST_CASE("shuffles move a register between lanes", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  std::array<int, 64> partner{};
  std::array<float, 64> first{};
  run(
      [&](simt::EmulatedCta& cta) {
        const auto idx = static_cast<size_t>(cta.thread_idx());
        partner[idx] = cta.shuffle_xor(cta.thread_idx(), 5);
        first[idx] = cta.shuffle(static_cast<float>(cta.thread_idx()), 0);
      },
      {.num_threads = 64}, order);
  for (int idx = 0; idx < 64; ++idx) {
    CHECK(partner[static_cast<size_t>(idx)] == (idx ^ 5));
    CHECK(first[static_cast<size_t>(idx)] == static_cast<float>(idx / 32 * 32));
  }
}

// Rows and columns of the fragments, spelt out as the PTX ISA does for mma.m16n8k16 with .bf16:
// element i of the lane's A (i = 0..7), B (0..3) and C (0..3).
struct Place {
  int row, col;
};
Place a_place(int lane, int i) {
  const int group = lane >> 2;
  const int in_group = lane % 4;
  const bool upper = (0 <= i && i < 2) || (4 <= i && i < 6);
  return {upper ? group : group + 8, in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Place b_place(int lane, int i) { return {(lane % 4) * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2}; }
Place c_place(int lane, int i) {
  return {i < 2 ? lane >> 2 : (lane >> 2) + 8, (lane % 4) * 2 + (i & 1)};
}

TEST_CASE("mma multiplies matrices laid out as the PTX ISA says", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Values values(7);
  float a[16][16];
  float b[16][8];
  for (auto& row : a) {
    for (float& value : row) value = bf16(values.next()).to_float();
  }
  for (auto& row : b) {
    for (float& value : row) value = bf16(values.next()).to_float();
  }
  float c[16][8] = {};
  run(
      [&](simt::EmulatedCta& cta) {
        const int lane = cta.lane_idx();
        const auto a_at = [&](int i) { return a[a_place(lane, i).row][a_place(lane, i).col]; };
        const auto b_at = [&](int i) { return b[b_place(lane, i).row][b_place(lane, i).col]; };
        uint32_t a_regs[4];
        uint32_t b_regs[2];
        for (int reg = 0; reg < 4; ++reg)
          a_regs[reg] = simt::narrow_pair(a_at(2 * reg), a_at(2 * reg + 1));
        for (int reg = 0; reg < 2; ++reg)
          b_regs[reg] = simt::narrow_pair(b_at(2 * reg), b_at(2 * reg + 1));
        float sums[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        cta.mma(sums, a_regs, b_regs);
        for (int i = 0; i < 4; ++i) c[c_place(lane, i).row][c_place(lane, i).col] = sums[i];
      },
      {.num_threads = 32}, order);
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      double expected = 1.0;
      double size = 1.0;
      for (int k = 0; k < 16; ++k) {
        expected += double{a[row][k]} * b[k][col];
        size += std::abs(double{a[row][k]} * b[k][col]);
      }
      CHECK(std::abs(c[row][col] - expected) <= 17 * kUnitRoundoff * size);
    }
  }
}

TEST_CASE("load_matrices distributes 8x8 matrices and their transposes", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  int64_t num_wrong = 0;
  run(
      [&](simt::EmulatedCta& cta) {
        const auto shared = cta.shared<bf16>(0, 4 * 64);
        for (int idx = cta.lane_idx(); idx < 4 * 64; idx += 32)
          shared.store(idx, bf16::from_bits(static_cast<uint16_t>(idx)));
        cta.sync();
        uint32_t plain[4];
        uint32_t transposed[4];
        cta.load_matrices<false>(shared, cta.lane_idx() * 8, plain);
        cta.load_matrices<true>(shared, cta.lane_idx() * 8, transposed);
        const auto row = static_cast<uint32_t>(cta.lane_idx() / 4);
        const auto col = static_cast<uint32_t>(cta.lane_idx() % 4 * 2);
        for (uint32_t m = 0; m < 4; ++m) {
          const auto at = [&](uint32_t r, uint32_t c) { return m * 64 + r * 8 + c; };
          num_wrong += plain[m] != (at(row, col) | at(row, col + 1) << 16);
          num_wrong += transposed[m] != (at(col, row) | at(col + 1, row) << 16);
        }
      },
      {.num_threads = 32, .shared_size_bytes = 512}, order);
  CHECK(num_wrong == 0);
}

TEST_CASE("an asynchronous copy arrives when it is waited for, zeros behind the valid bytes",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  AlignedBuffer<float> source(4);
  for (int idx = 0; idx < 4; ++idx) source[idx] = static_cast<float>(idx + 1);
  std::array<float, 8> early{};
  std::array<float, 8> late{};
  run(
      [&](simt::EmulatedCta& cta) {
        if (cta.thread_idx() != 0) return;
        const auto shared = cta.shared<float>(0, 8);
        cta.copy16_async(shared, 0, source.data(), 16);
        cta.commit_copies();
        cta.copy16_async(shared, 4, source.data(), 6);
        cta.commit_copies();
        cta.wait_copies<1>();
        for (int idx = 0; idx < 8; ++idx) early[static_cast<size_t>(idx)] = shared.load(idx);
        cta.wait_copies<0>();
        for (int idx = 0; idx < 8; ++idx) late[static_cast<size_t>(idx)] = shared.load(idx);
      },
      {.num_threads = 32, .shared_size_bytes = 32}, order);
  CHECK(std::equal(early.begin(), early.begin() + 4, source.data()));
  for (size_t idx = 4; idx < 8; ++idx) CHECK(std::isnan(early[idx]));
  CHECK(std::equal(late.begin(), late.begin() + 4, source.data()));
  CHECK(late[4] == 1.0f);
  CHECK(late[5] != 2.0f);  // half of it
  CHECK((late[6] == 0.0f && late[7] == 0.0f));
}

TEST_CASE("shared memory starts as NaN", "[cuda_kernels]") {
  float value = 0.0f;
  run([&](simt::EmulatedCta& cta) { value = cta.shared<float>(0, 4).load(2); },
      {.num_threads = 32, .shared_size_bytes = 16});
  CHECK(std::isnan(value));
}

TEST_CASE("divergence is found", "[cuda_kernels]") {
  check_fails(
      [](simt::EmulatedCta& cta) {
        if (cta.thread_idx() != 7) cta.sync();
      },
      "divergence");
  check_fails(
      [](simt::EmulatedCta& cta) {
        if (cta.thread_idx() < 32) {
          cta.sync();
        } else {
          cta.sync();
        }
      },
      "divergence", 64);
  check_fails(
      [](simt::EmulatedCta& cta) {
        if (cta.lane_idx() < 16) cta.shuffle_xor(1, 1);
      },
      "divergence");
  check_fails(
      [](simt::EmulatedCta& cta) {
        if (cta.lane_idx() < 16) {
          cta.shuffle_xor(1, 1);
        } else {
          cta.sync_warp();
        }
      },
      "divergence");
}

TEST_CASE("races in shared memory are found, within a warp and between warps", "[cuda_kernels]") {
  const int reader = GENERATE(1, 40);
  const bool writer_first = GENERATE(true, false);
  const auto race = [&](simt::EmulatedCta& cta) {
    const auto shared = cta.shared<bf16>(0, 8);
    if (!writer_first && cta.thread_idx() == 0) shared.store(3, bf16(1.0f));
    if (cta.thread_idx() == reader) static_cast<void>(shared.load(3));
    if (writer_first && cta.thread_idx() == 0) shared.store(3, bf16(1.0f));
    cta.sync();
    if (cta.thread_idx() == 0) shared.store(3, bf16(1.0f));
  };
  check_fails(race, "race", 64);
  check_fails([](simt::EmulatedCta& cta) { cta.shared<float>(0, 8).store(0, 1.0f); }, "race");
  check_fails(
      [](simt::EmulatedCta& cta) {
        cta.shared<int32_t>(0, 8).atomic_add(0, 1);
        static_cast<void>(cta.shared<int32_t>(0, 8).load(0));
      },
      "race");
  // Many readers, then a writer of another warp.
  check_fails(
      [](simt::EmulatedCta& cta) {
        if (cta.warp_idx() == 0) static_cast<void>(cta.shared<float>(0, 8).load(0));
        if (cta.thread_idx() == 63) cta.shared<float>(0, 8).store(0, 1.0f);
      },
      "race", 64);
}

TEST_CASE("a collective orders its warp, and atomics do not race with each other",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  int32_t total = 0;
  run(
      [&](simt::EmulatedCta& cta) {
        const auto own = cta.shared<int32_t>(128 * cta.warp_idx(), 32);
        own.store(cta.lane_idx(), 1);
        cta.sync_warp();
        const int32_t value = own.load(31 - cta.lane_idx());
        const auto sum = cta.shared<int32_t>(256, 4);
        if (cta.thread_idx() == 0) sum.store(0, 0);
        cta.sync();
        sum.atomic_add(0, value);
        cta.sync();
        if (cta.thread_idx() == 0) total = sum.load(0);
      },
      {.num_threads = 64, .shared_size_bytes = 272}, order);
  CHECK(total == 64);
}

TEST_CASE("accesses beyond an array, beyond the memory and misaligned ones are found",
          "[cuda_kernels]") {
  check_fails([](simt::EmulatedCta& cta) { static_cast<void>(cta.shared<float>(0, 8).load(8)); },
              "element 8 of 8");
  check_fails([](simt::EmulatedCta& cta) { static_cast<void>(cta.shared<float>(0, 8).load(-1)); },
              "element -1 of 8");
  check_fails([](simt::EmulatedCta& cta) { static_cast<void>(cta.shared<float>(1000, 8)); },
              "beyond the end");
  check_fails([](simt::EmulatedCta& cta) { static_cast<void>(cta.shared<float>(0, 8).load16(1)); },
              "not aligned");
  AlignedBuffer<float> values(8);
  check_fails([&](simt::EmulatedCta& cta) { static_cast<void>(cta.load16(&values[1])); },
              "not aligned");
  check_fails(
      [&](simt::EmulatedCta& cta) {
        cta.copy16_async(cta.shared<float>(0, 256), 4 * cta.lane_idx(), &values[2], 16);
      },
      "not aligned");
}

// Adds one to what the kernels before left, and reads `constants` in front of its wait.
struct AddOne {
  struct Params {
    const simt::Words4* constants;
    uint32_t* values;  // [64], of the kernels before
    uint32_t* early;   // [64] what stood there in front of the wait
    int waits = 1;
    bool reads_early = false;
  };
  static constexpr int kMaxThreads = 32, kMinBlocks = 1;
  static constexpr bool kWaitsItself = true;
  static simt::LaunchShape launch_shape(const Params&) { return {.grid_x = 2, .num_threads = 32}; }
  template <typename Cta>
  static void run(Cta& cta, const Params& p) {
    const auto idx = static_cast<int>(cta.block_x()) * 32 + cta.thread_idx();
    p.early[idx] = p.values[idx];
    const simt::Words4 constant = cta.load16_streamed(p.constants);
    if (p.reads_early) static_cast<void>(cta.load16(p.constants));
    for (int wait = 0; wait < p.waits; ++wait) cta.wait_for_previous();
    p.values[idx] += constant.w[0];
  }
};

TEST_CASE("a kernel's first CTA begins before the kernels in front of it, up to its wait",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const simt::Words4 constants{1, 0, 0, 0};
  std::vector<uint32_t> values(64, 0);
  std::vector<uint32_t> early(64, 9);
  const AddOne::Params params{
      .constants = &constants, .values = values.data(), .early = early.data()};
  int num_runs = 0;
  simt::emulate<AddOne>(params, order, [&] {
    ++num_runs;
    std::fill(values.begin(), values.end(), 41);
  });
  CHECK(num_runs == 1);
  CHECK(values == std::vector<uint32_t>(64, 42));
  // One of the two CTAs was the first.
  CHECK(std::count(early.begin(), early.end(), 0u) == 32);
  CHECK(std::count(early.begin(), early.end(), 41u) == 32);
}

TEST_CASE("a kernel that does not wait, waits twice or reads too early is found",
          "[cuda_kernels]") {
  const simt::Words4 constants{};
  std::vector<uint32_t> values(64, 0);
  AddOne::Params params{.constants = &constants, .values = values.data(), .early = values.data()};
  const auto check = [&](const std::string& why) {
    CHECK_THROWS_WITH(simt::emulate<AddOne>(params, simt::ThreadOrder::kForward),
                      Catch::Matchers::ContainsSubstring(why));
  };
  params.waits = 0;
  check("without having waited");
  params.waits = 2;
  check("a second time");
  params.waits = 1;
  params.reads_early = true;
  check("without having waited for them");
}

TEST_CASE("copies that nobody waits for are found", "[cuda_kernels]") {
  AlignedBuffer<float> values(4);
  const bool commits = GENERATE(true, false);
  check_fails(
      [&](simt::EmulatedCta& cta) {
        cta.copy16_async(cta.shared<float>(0, 256), 4 * cta.lane_idx(), values.data(), 16);
        if (commits) cta.commit_copies();
      },
      "did not wait");
}

}  // namespace
}  // namespace tandem::gpu::testing
