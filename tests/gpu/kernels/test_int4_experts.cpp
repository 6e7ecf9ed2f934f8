#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <set>

#include "gpu/cuda/kernels/int4_experts-inl.h"
#include "tests/gpu/int4_expert.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

using cuda::ExpertPath;
using cuda::ExpertStage;
using cuda::Int4ExpertsParams;

// An expert whose packed form lies at a boundary of 16 bytes, as on a card.
struct Expert : Int4Expert {
  Expert(Values& values, int64_t hidden_in, int64_t intermediate_in)
      : Int4Expert(values, hidden_in, intermediate_in), packed(packed_size_bytes()) {
    pack(packed.data());
  }
  AlignedBuffer<std::byte> packed;
};

struct Layer {
  Layer(int64_t hidden_in, int64_t intermediate_in, int32_t num_experts, uint32_t seed)
      : hidden(hidden_in), intermediate(intermediate_in), values(seed) {
    for (int32_t idx = 0; idx < num_experts; ++idx) {
      experts.push_back(std::make_unique<Expert>(values, hidden, intermediate));
      addresses.push_back(experts.back()->packed.data());
    }
  }

  // Tokens with random choices; `favourite` of every token's experts, so that it has many.
  void choose(int64_t num_tokens, int64_t num_chosen, int32_t favourite) {
    x = std::make_unique<AlignedMatrix<bf16>>(aligned_matrix<bf16>(values, num_tokens, hidden));
    ids.clear();
    weights = values.vector<float>(num_tokens * num_chosen);
    for (int64_t token = 0; token < num_tokens; ++token) {
      std::set<int32_t> chosen{favourite};
      while (static_cast<int64_t>(chosen.size()) < num_chosen)
        chosen.insert(values.below(static_cast<int32_t>(experts.size())));
      ids.insert(ids.end(), chosen.begin(), chosen.end());
    }
    k = num_chosen;
  }

  struct Workspace {
    Workspace(int64_t num_pairs, int64_t max_tiles, int64_t hidden, int64_t intermediate)
        : sorted(static_cast<size_t>(num_pairs), -1),
          tiles(static_cast<size_t>(max_tiles)),
          activated(num_pairs * intermediate),
          expert_out(num_pairs * hidden) {}
    std::vector<int32_t> sorted;
    std::vector<cuda::ExpertTile> tiles;
    int32_t num_tiles = -1;
    AlignedBuffer<bf16> activated;
    AlignedBuffer<bf16> expert_out;
  };

  [[nodiscard]] Int4ExpertsParams params(ExpertPath path,
                                         MatrixView<float> residual,
                                         Workspace& workspace) const {
    return {.hidden = x->view(),
            .expert_ids = {ids.data(), x->rows, k},
            .expert_weights = {weights.data(), x->rows, k},
            .kv_slots = kv_slots.empty() ? nullptr : kv_slots.data(),
            .experts = addresses.data(),
            .n_routed_experts = static_cast<int32_t>(experts.size()),
            .moe_intermediate_size = static_cast<int32_t>(intermediate),
            .sorted_pairs = workspace.sorted.data(),
            .tiles = workspace.tiles.data(),
            .num_tiles = &workspace.num_tiles,
            .activated = workspace.activated.data(),
            .expert_out = workspace.expert_out.data(),
            .residual = residual,
            .tokens_a_tile = cuda::tokens_a_tile(path)};
  }
  [[nodiscard]] Workspace workspace(ExpertPath path) const {
    const int64_t num_pairs = x->rows * k;
    return {num_pairs,
            cuda::max_expert_tiles(num_pairs, static_cast<int32_t>(experts.size()), path), hidden,
            intermediate};
  }

  void run(ExpertPath path, MatrixView<float> residual, simt::ThreadOrder order) const {
    Workspace work = workspace(path);
    const Int4ExpertsParams p = params(path, residual, work);
    simt::emulate<cuda::SortPairs>(p, order);
    if (path == ExpertPath::kFew) {
      simt::emulate<cuda::Int4Few<ExpertStage::kGateUp>>(p, order);
      simt::emulate<cuda::Int4Few<ExpertStage::kDown>>(p, order);
    } else {
      simt::emulate<cuda::Int4Many<ExpertStage::kGateUp>>(p, order);
      simt::emulate<cuda::Int4Many<ExpertStage::kDown>>(p, order);
    }
    simt::emulate<cuda::CombineExperts>(p, order);
  }

  // Equations 11 and 15 in double for one token, with the error that every column may have.
  void add_expected(int64_t token, std::span<double> sum, std::span<double> limit) const {
    for (int64_t rank = 0; rank < k; ++rank) {
      const auto pair = static_cast<size_t>(token * k + rank);
      if (addresses[static_cast<size_t>(ids[pair])] == nullptr) continue;
      const Expert& expert = *experts[static_cast<size_t>(ids[pair])];
      const double weight = weights[pair];
      std::vector<double> activated;
      std::vector<double> activated_error;
      for (int64_t row = 0; row < intermediate; ++row) {
        double gate = 0.0, up = 0.0, gate_size = 0.0, up_size = 0.0;
        for (int64_t col = 0; col < hidden; ++col) {
          const double value = x->view()(token, col).to_float();
          gate += expert.gate.weight(row, col) * value;
          up += expert.up.weight(row, col) * value;
          gate_size += std::abs(expert.gate.weight(row, col) * value);
          up_size += std::abs(expert.up.weight(row, col) * value);
        }
        const double silu = gate / (1.0 + std::exp(-gate));
        // Sums in FP32 in any order; silu's slope is below 1.1; one rounding to BF16.
        const double sum_error = static_cast<double>(hidden + 32) * kUnitRoundoff;
        activated.push_back(silu * up);
        activated_error.push_back(1.1 * sum_error * gate_size * std::abs(up) +
                                  sum_error * up_size * std::abs(silu) +
                                  (kBf16UnitRoundoff + 8 * kUnitRoundoff) * std::abs(silu * up));
      }
      for (int64_t col = 0; col < hidden; ++col) {
        double value = 0.0, error = 0.0;
        for (int64_t row = 0; row < intermediate; ++row) {
          const double down = expert.down.weight(col, row);
          const auto idx = static_cast<size_t>(row);
          value += down * activated[idx];
          error += std::abs(down) *
                   (activated_error[idx] + static_cast<double>(intermediate + 32) * kUnitRoundoff *
                                               (std::abs(activated[idx]) + activated_error[idx]));
        }
        error += kBf16UnitRoundoff * (std::abs(value) + error);
        const auto idx = static_cast<size_t>(col);
        sum[idx] += weight * value;
        limit[idx] += std::abs(weight) * (error + 16 * kUnitRoundoff * (std::abs(value) + error));
      }
    }
  }

  int64_t hidden;
  int64_t intermediate;
  int64_t k = 0;
  Values values;
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<const std::byte*> addresses;
  std::unique_ptr<AlignedMatrix<bf16>> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<int32_t> kv_slots;  // empty: every row has a token
};

TEST_CASE("sort_pairs lists every pair whose expert is here once, in tiles of one expert",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const ExpertPath path = GENERATE(ExpertPath::kFew, ExpertPath::kMany);
  Layer layer(32, 32, 40, 17);
  layer.addresses[5] = nullptr;
  layer.addresses[39] = nullptr;
  for (const int64_t num_tokens : {1, 3, 70, 700}) {
    layer.choose(num_tokens, 4, num_tokens % 2 == 0 ? 0 : 5);
    Layer::Workspace work = layer.workspace(path);
    TestMatrix<float> out(num_tokens, 32);
    simt::emulate<cuda::SortPairs>(layer.params(path, out.view(), work), order);
    REQUIRE(work.num_tiles >= 0);
    REQUIRE(static_cast<size_t>(work.num_tiles) <= work.tiles.size());
    std::set<int32_t> listed;
    int32_t next = 0;
    for (int32_t idx = 0; idx < work.num_tiles; ++idx) {
      const cuda::ExpertTile& tile = work.tiles[static_cast<size_t>(idx)];
      CHECK(tile.pair_begin == next);
      CHECK((tile.num_pairs > 0 && tile.num_pairs <= cuda::tokens_a_tile(path)));
      next += tile.num_pairs;
      for (int32_t place = tile.pair_begin; place < next; ++place) {
        const int32_t pair = work.sorted[static_cast<size_t>(place)];
        CHECK(layer.ids[static_cast<size_t>(pair)] == tile.expert_idx);
        listed.insert(pair);
      }
    }
    size_t num_here = 0;
    for (const int32_t id : layer.ids) num_here += id != 5 && id != 39;
    CHECK(listed.size() == num_here);
    CHECK(next == static_cast<int32_t>(num_here));
  }
}

TEST_CASE("int4_experts equal the reference for every remainder, with experts that are elsewhere",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const ExpertPath path = GENERATE(ExpertPath::kFew, ExpertPath::kMany);
  struct Shape {
    int64_t hidden, intermediate, num_tokens, k;
  };
  const Shape shape = GENERATE(Shape{32, 32, 1, 1}, Shape{96, 64, 3, 2}, Shape{64, 160, 70, 2},
                               Shape{1056, 32, 2, 4});
  Layer layer(shape.hidden, shape.intermediate, 5, 18);
  layer.addresses[1] = nullptr;
  layer.choose(shape.num_tokens, shape.k, 2);
  TestMatrix<float> residual(shape.num_tokens, shape.hidden);
  layer.values.fill(residual.view());
  const TestMatrix<float> before = residual;
  layer.run(path, residual.view(), order);
  for (int64_t token = 0; token < shape.num_tokens; ++token) {
    std::vector<double> expected(static_cast<size_t>(shape.hidden), 0.0);
    std::vector<double> limit(expected.size(), 0.0);
    layer.add_expected(token, expected, limit);
    for (int64_t col = 0; col < shape.hidden; ++col) {
      const auto idx = static_cast<size_t>(col);
      const double old = before.view()(token, col);
      CHECK(std::abs(residual.view()(token, col) - (expected[idx] + old)) <=
            limit[idx] + 4 * kUnitRoundoff * std::abs(old));
    }
  }
  CHECK(residual.padding_is_untouched());
}

TEST_CASE("rows of int4_experts without a token read no expert and stay as they are",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const ExpertPath path = GENERATE(ExpertPath::kFew, ExpertPath::kMany);
  Layer layer(64, 32, 4, 20);
  layer.choose(11, 2, 1);
  TestMatrix<float> residual(11, 64);
  layer.values.fill(residual.view());
  TestMatrix<float> all = residual;
  layer.run(path, all.view(), order);
  const TestMatrix<float> before = residual;
  for (int64_t row = 0; row < 11; ++row) {
    layer.kv_slots.push_back(row % 3 == 1 ? -1 : static_cast<int32_t>(row));
    // An expert that does not exist.
    if (row % 3 == 1) layer.ids[static_cast<size_t>(2 * row)] = 1 << 28;
  }
  layer.run(path, residual.view(), order);
  for (int64_t row = 0; row < 11; ++row) {
    const TestMatrix<float>& expected = row % 3 == 1 ? before : all;
    CHECK(same_bits(std::as_const(residual).view().row(row), expected.view().row(row)));
  }
}

TEST_CASE("a token of int4_experts has the same bits in any batch of its path", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const ExpertPath path = GENERATE(ExpertPath::kFew, ExpertPath::kMany);
  Layer layer(96, 64, 4, 19);
  layer.choose(21, 3, 0);
  TestMatrix<float> together(21, 96);
  layer.values.fill(together.view());
  const TestMatrix<float> before = together;
  layer.run(path, together.view(), order);
  const auto all_ids = layer.ids;
  const auto all_weights = layer.weights;
  const AlignedMatrix<bf16> all_x = *layer.x;
  for (const int64_t token : {0, 7, 20}) {
    layer.x = std::make_unique<AlignedMatrix<bf16>>(1, 96);
    std::copy_n(all_x.view().row(token).begin(), 96, layer.x->view().row(0).begin());
    layer.ids.assign(all_ids.begin() + token * 3, all_ids.begin() + token * 3 + 3);
    layer.weights.assign(all_weights.begin() + token * 3, all_weights.begin() + token * 3 + 3);
    TestMatrix<float> alone(1, 96);
    std::copy_n(before.view().row(token).begin(), 96, alone.view().row(0).begin());
    layer.run(path, alone.view(), order);
    CHECK(same_bits(together.view().row(token), alone.view().row(0)));
  }
}

TEST_CASE("the lanes of a warp take every code and scale of a block once", "[cuda_kernels]") {
  std::vector<int> num_taken(static_cast<size_t>(expert_layout::kBlockSizeBytes), 0);
  for (int lane = 0; lane < 32; ++lane) {
    for (int group = 0; group < 2; ++group) {
      for (int64_t byte = 0; byte < 8; ++byte)
        ++num_taken[static_cast<size_t>(cuda::codes_offset(group, lane) + byte)];
      for (int64_t byte = 0; byte < 4; ++byte)
        num_taken[static_cast<size_t>(cuda::scales_offset(group, lane) + byte)] += lane % 4 == 0;
    }
  }
  CHECK(std::all_of(num_taken.begin(), num_taken.end(), [](int num) { return num == 1; }));
}

TEST_CASE("a pair of codes becomes two BF16 numbers exactly", "[cuda_kernels]") {
  for (uint32_t low = 0; low < 16; ++low) {
    for (uint32_t high = 0; high < 16; ++high) {
      for (int p = 0; p < 4; ++p) {
        const uint32_t word =
            (low << (4 * p) | high << (4 * p + 16)) ^ (0x5a5a5a5au & ~(0x000f000fu << (4 * p)));
        const uint32_t pair = cuda::code_pair(word, p);
        CHECK(simt::low_of(pair) == static_cast<float>(low) - 8.0f);
        CHECK(simt::high_of(pair) == static_cast<float>(high) - 8.0f);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::gpu::testing
