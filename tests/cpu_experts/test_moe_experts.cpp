#include "cpu_experts/moe_experts.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/topology/cpu_isa.h"
#include "tests/cpu_experts/expert_fixture.h"
#include "tests/support/forced_isa.h"

namespace tandem::tests {
namespace {

using cpu_experts::ActivationMode;
using cpu_experts::MoeExperts;
using cpu_experts::MoeShape;

CpuIsa any_isa() {
  return GENERATE(CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvxVnni, CpuIsa::kAvx512,
                  CpuIsa::kAvx512Vnni, CpuIsa::kAvx512VnniZen4, CpuIsa::kAvx512Bf16,
                  CpuIsa::kAmxBf16);
}

MoeShape shape_of_one_expert(int32_t hidden_size,
                             int32_t moe_intermediate_size,
                             int32_t max_tokens,
                             ActivationMode activations) {
  return {.hidden_size = hidden_size,
          .moe_intermediate_size = moe_intermediate_size,
          .n_routed_experts = 1,
          .num_experts_per_tok = 1,
          .num_moe_layers = 1,
          .max_tokens = max_tokens,
          .activations = activations};
}

struct Layer {
  MoeShape shape;
  std::vector<OwnedExpert> experts;

  Layer(const MoeShape& shape_in, uint32_t seed, Scales scales = Scales::kWild) : shape(shape_in) {
    std::mt19937 random(seed);
    for (int32_t idx = 0; idx < shape.n_routed_experts; ++idx) {
      experts.push_back(
          random_expert(shape.hidden_size, shape.moe_intermediate_size, random, scales));
    }
  }
  void load(MoeExperts& moe, int32_t moe_layer_idx = 0) const {
    moe.load_layer(moe_layer_idx,
                   [this](int32_t expert_idx, int32_t) { return experts[expert_idx].view(); });
  }
};

struct Machine {
  WorkerPool pool;
  MoeExperts moe;
  Machine(const MoeShape& shape, int num_threads, int simulated_nodes = 0)
      : pool(Topology::detect(),
             {.num_threads = num_threads, .pin = false, .simulated_nodes = simulated_nodes}),
        moe(shape, pool) {}
};

// out [num_tokens, hidden_size] between canaries.
std::vector<float> run(MoeExperts& moe,
                       const MoeShape& shape,
                       const Routing& routing,
                       int64_t num_tokens,
                       int32_t moe_layer_idx = 0) {
  constexpr float kCanary = 12345.0f;
  const int64_t stride = shape.hidden_size + 16;
  std::vector<float> padded(static_cast<size_t>(num_tokens * stride), kCanary);
  moe.forward(
      moe_layer_idx,
      {.hidden = {routing.hidden.data(), num_tokens, shape.hidden_size},
       .expert_ids = {routing.expert_ids.data(), num_tokens, shape.num_experts_per_tok},
       .expert_weights = {routing.expert_weights.data(), num_tokens, shape.num_experts_per_tok}},
      MatrixView<float>(padded.data(), num_tokens, shape.hidden_size, stride));
  std::vector<float> out;
  for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    const auto row = padded.begin() + token_idx * stride;
    out.insert(out.end(), row, row + shape.hidden_size);
    REQUIRE(std::all_of(row + shape.hidden_size, row + stride,
                        [](float value) { return value == kCanary; }));
  }
  return out;
}

// What an activation may be off by: BF16 products round the input of down to BF16 (2^-9 of it).
// Words are within one unit, 2^-14 of the group's largest; bytes, for the layer's input alone,
// within half of 1/127 of it, where nibbles mix of 17/16 of it, and a sixteenth of another's error.
struct ActivationError {
  double of_value = 0.0, of_group = 0.0;
};
ActivationError activation_error(CpuIsa isa, ActivationMode mode) {
  if (mode == ActivationMode::kInt8) {
    return {.of_group = mixes_nibbles(isa) ? 1.0 / 220.0 : 1.0 / 250.0};
  }
  if (isa >= CpuIsa::kAvx512Bf16) return {.of_value = std::ldexp(1.0, -9)};
  return {.of_group = std::ldexp(1.0, -14)};
}

// Error bound of an output: its terms' magnitudes times the errors that they pass. Every FP32 sum
// of n terms adds at most n * 2^-24. Of the layer as a whole 2e-3, in bytes 8e-3.
double check_against_naive(const Layer& layer,
                           const Routing& routing,
                           int64_t num_tokens,
                           const std::vector<float>& out,
                           CpuIsa isa) {
  const MoeShape& shape = layer.shape;
  const ActivationError error_of = activation_error(isa, shape.activations);
  const double epsilon =
      error_of.of_value +
      std::ldexp(1.0, -24) * (shape.hidden_size + shape.moe_intermediate_size + 16);
  // Second-order terms: an error of gate moves the slope of the next.
  const double group_epsilon = error_of.of_group * 1.2;
  double error_squares = 0.0, value_squares = 0.0;
  int64_t num_beyond = 0;
  for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    std::vector<double> value(static_cast<size_t>(shape.hidden_size), 0.0);
    std::vector<double> bound(value.size(), 1e-30);
    for (int32_t slot = 0; slot < shape.num_experts_per_tok; ++slot) {
      const int64_t pair = token_idx * shape.num_experts_per_tok + slot;
      const NaiveRow row = naive_expert(layer.experts[routing.expert_ids[pair]],
                                        routing.hidden.data() + token_idx * shape.hidden_size);
      const double weight = routing.expert_weights[pair];
      for (size_t col = 0; col < value.size(); ++col) {
        value[col] += weight * row.value[col];
        bound[col] +=
            weight * (epsilon * row.magnitude[col] + group_epsilon * row.group_magnitude[col]);
      }
    }
    for (size_t col = 0; col < value.size(); ++col) {
      const double error =
          out[static_cast<size_t>(token_idx * shape.hidden_size) + col] - value[col];
      num_beyond += !(std::fabs(error) <= bound[col]);
      error_squares += error * error;
      value_squares += value[col] * value[col];
    }
  }
  const double relative_error = std::sqrt(error_squares / std::max(value_squares, 1e-300));
  INFO(isa_name(isa) << ", " << num_tokens << " tokens, relative error " << relative_error);
  CHECK(num_beyond == 0);
  return relative_error;
}

TEST_CASE("a layer equals the naive sum of its experts at awkward sizes, for every instruction set",
          "[cpu_experts]") {
  const CpuIsa isa = any_isa();
  const ForcedIsa forced(isa);
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  struct Sizes {
    int32_t hidden_size, moe_intermediate_size, n_routed_experts, num_experts_per_tok;
  };
  const std::vector<Sizes> cases = {
      {32, 32, 1, 1}, {64, 96, 5, 2}, {96, 32, 7, 3}, {160, 64, 4, 4}, {224, 160, 6, 2}};
  for (const Sizes& sizes : cases) {
    const MoeShape shape{.hidden_size = sizes.hidden_size,
                         .moe_intermediate_size = sizes.moe_intermediate_size,
                         .n_routed_experts = sizes.n_routed_experts,
                         .num_experts_per_tok = sizes.num_experts_per_tok,
                         .num_moe_layers = 1,
                         .max_tokens = 33,
                         .activations = mode};
    const Layer layer(shape, 3);
    Machine machine(shape, 2);
    REQUIRE(machine.moe.isa_name() == isa_name(isa));
    layer.load(machine.moe);
    std::mt19937 random(4);
    for (const int64_t num_tokens : {1, 2, 3, 9, 33}) {
      // Without outliers: a layer of one group is nothing but its outlier.
      const Routing routing = random_routing(num_tokens, shape.hidden_size, shape.n_routed_experts,
                                             shape.num_experts_per_tok, random, 1.0f);
      const double relative_error = check_against_naive(
          layer, routing, num_tokens, run(machine.moe, shape, routing, num_tokens), isa);
      // Few and wild groups leave to chance what bytes, or rounding the input of down to BF16
      // (2^-8 of terms that half cancel), comes to: they are judged at true dimensions.
      if (mode == ActivationMode::kInt8) continue;
      CHECK(relative_error <= (isa >= CpuIsa::kAvx512Bf16 ? std::ldexp(1.0, -8) : 2e-3));
    }
  }
}

TEST_CASE("a layer at K2's dimensions is within 2e-3, in bytes within 8e-3",
          "[cpu_experts][k2_size]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const ForcedIsa forced(any_isa());
  const MoeShape shape = shape_of_one_expert(7168, 2048, 1, mode);
  static const Layer kLayer(shape, 15, Scales::kAlike);
  Layer layer = kLayer;
  layer.shape = shape;
  Machine machine(shape, 2);
  layer.load(machine.moe);
  std::mt19937 random(16);
  const float outlier = mode == ActivationMode::kInt8 ? 1.0f : 1e4f;
  const Routing routing = random_routing(1, shape.hidden_size, 1, 1, random, outlier);
  const double relative_error =
      check_against_naive(layer, routing, 1, run(machine.moe, shape, routing, 1), active_isa());
  INFO(mode_name(mode) << ", relative error " << relative_error);
  CHECK(relative_error <= (mode == ActivationMode::kInt8 ? 8e-3 : 2e-3));
}

TEST_CASE("experts take 4.5 bits a weight and what was planned, on any number of nodes",
          "[cpu_experts]") {
  const int num_nodes = GENERATE(1, 2, 3, 5, 8, 16, 24);
  const MoeShape shape{.hidden_size = 256,
                       .moe_intermediate_size = 2048,
                       .n_routed_experts = 3,
                       .num_experts_per_tok = 2,
                       .num_moe_layers = 2,
                       .max_tokens = 8};
  const Machine machine(shape, 24, num_nodes);
  REQUIRE(machine.pool.num_nodes() == num_nodes);
  const int64_t resident = machine.moe.resident_size_bytes();
  CHECK(MoeExperts::planned_size(shape, machine.pool).weights_bytes == resident);
  CHECK(resident ==
        shape.num_moe_layers * MoeExperts::layer_read_bytes(shape, shape.n_routed_experts));
}

const MoeShape kShape{.hidden_size = 160,
                      .moe_intermediate_size = 96,
                      .n_routed_experts = 12,
                      .num_experts_per_tok = 4,
                      .num_moe_layers = 2,
                      .max_tokens = 40};

TEST_CASE("a token has the same bits alone, in any batch and on any number of threads",
          "[cpu_experts]") {
  const ForcedIsa forced(any_isa());
  MoeShape shape = kShape;
  shape.activations = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const Layer layer(shape, 5);
  std::mt19937 random(6);
  const Routing routing = random_routing(40, shape.hidden_size, shape.n_routed_experts, 4, random);
  std::vector<float> expected;
  for (const int num_threads : {1, 2, 3, 7}) {
    Machine machine(shape, num_threads);
    layer.load(machine.moe);
    const std::vector<float> out = run(machine.moe, shape, routing, 40);
    if (expected.empty()) expected = out;
    CHECK(out == expected);
    for (const int64_t token_idx : {0, 13, 39}) {
      const Routing alone{.hidden = {routing.hidden.begin() + token_idx * 160,
                                     routing.hidden.begin() + (token_idx + 1) * 160},
                          .expert_ids = {routing.expert_ids.begin() + token_idx * 4,
                                         routing.expert_ids.begin() + token_idx * 4 + 4},
                          .expert_weights = {routing.expert_weights.begin() + token_idx * 4,
                                             routing.expert_weights.begin() + token_idx * 4 + 4}};
      const std::vector<float> row = run(machine.moe, shape, alone, 1);
      CHECK(std::equal(row.begin(), row.end(), expected.begin() + token_idx * 160));
    }
  }
}

TEST_CASE("an expert may have more tokens than are gathered at once", "[cpu_experts]") {
  const ForcedIsa forced(any_isa());
  const MoeShape shape =
      shape_of_one_expert(96, 96, 150, GENERATE(ActivationMode::kBf16, ActivationMode::kInt8));
  const Layer layer(shape, 18);
  Machine machine(shape, 2);
  layer.load(machine.moe);
  std::mt19937 random(19);
  const Routing routing = random_routing(150, shape.hidden_size, 1, 1, random);
  const std::vector<float> all = run(machine.moe, shape, routing, 150);
  for (const int64_t token_idx : {0, 63, 64, 127, 128, 149}) {
    const Routing alone{.hidden = {routing.hidden.begin() + token_idx * 96,
                                   routing.hidden.begin() + (token_idx + 1) * 96},
                        .expert_ids = {0},
                        .expert_weights = {routing.expert_weights[token_idx]}};
    const std::vector<float> row = run(machine.moe, shape, alone, 1);
    CHECK(std::equal(row.begin(), row.end(), all.begin() + token_idx * 96));
  }
}

// 32 x 32 weights from codes -8 .. 7, of one scale.
template <typename CodeOf>
OwnedInt4 square_of(float scale, const CodeOf& code_of) {
  OwnedInt4 matrix{.packed = std::vector<uint8_t>(32 * 32 / 2),
                   .scale = std::vector<bf16>(32, bf16(scale)),
                   .out_features = 32,
                   .in_features = 32};
  for (int row = 0; row < 32; ++row) {
    for (int col = 0; col < 32; ++col) {
      const int code = code_of(row, col) + 8;
      matrix.packed[static_cast<size_t>(row * 32 + col) / 2] |=
          static_cast<uint8_t>(code << 4 * (col % 2));
    }
  }
  return matrix;
}

TEST_CASE("the input of down may be as large as its bytes hold, under the extreme codes",
          "[cpu_experts]") {
  const ForcedIsa forced(any_isa());
  const MoeShape shape = shape_of_one_expert(32, 32, 15, ActivationMode::kInt8);
  Layer layer(shape, 17);
  // Of the first column alone: silu(56) is 56, so the input of down is 1 or 2 times the same
  // number, 2 in two quads, and every byte is at its limit, exact but where nibbles mix. What did
  // not hold its sum would be off by all of it.
  const auto of_first = [](int code, int col) { return col == 0 ? code : 0; };
  layer.experts[0].gate_proj = square_of(8.0f, [&](int, int col) { return of_first(7, col); });
  layer.experts[0].up_proj = square_of(1.0f / 64.0f, [&](int row, int col) {
    return of_first(row / 4 == 1 || row / 4 == 6 ? 6 : 3, col);
  });
  layer.experts[0].down_proj = square_of(1.0f, [](int row, int col) {
    const bool low = row % 3 == 0 || (row % 3 == 1 && col < row) || (row % 3 == 2 && col % 2 == 0);
    return low ? -8 : 7;
  });
  Machine machine(shape, 2);
  layer.load(machine.moe);
  for (const int64_t num_tokens : {1, 6, 15}) {
    Routing routing;
    routing.hidden.assign(static_cast<size_t>(num_tokens * 32), bf16(0.0f));
    for (int64_t token = 0; token < num_tokens; ++token) {
      routing.hidden[static_cast<size_t>(token * 32)] = bf16(1.0f);
    }
    routing.expert_ids.assign(static_cast<size_t>(num_tokens), 0);
    routing.expert_weights.assign(static_cast<size_t>(num_tokens), 1.0f);
    const double relative_error = check_against_naive(
        layer, routing, num_tokens, run(machine.moe, shape, routing, num_tokens), active_isa());
    CHECK(relative_error <= (mixes_nibbles(active_isa()) ? 1.0 / 254.0 : 1e-5));
  }
}

TEST_CASE("several nodes add up to the layer, whichever slices they hold", "[cpu_experts]") {
  const int simulated_nodes = GENERATE(2, 3);
  const Layer layer(kShape, 7);
  Machine machine(kShape, 4, simulated_nodes);
  REQUIRE(machine.pool.num_nodes() == simulated_nodes);
  layer.load(machine.moe);
  std::mt19937 random(8);
  const Routing routing = random_routing(9, kShape.hidden_size, kShape.n_routed_experts, 4, random);
  check_against_naive(layer, routing, 9, run(machine.moe, kShape, routing, 9), active_isa());
}

TEST_CASE("layers keep apart, and an expert may have all tokens or none", "[cpu_experts]") {
  const Layer first(kShape, 9);
  const Layer second(kShape, 10);
  Machine machine(kShape, 2);
  first.load(machine.moe, 0);
  second.load(machine.moe, 1);
  std::mt19937 random(11);
  Routing routing = random_routing(20, kShape.hidden_size, kShape.n_routed_experts, 4, random);
  for (size_t pair = 0; pair < routing.expert_ids.size(); ++pair) {
    routing.expert_ids[pair] = static_cast<int32_t>(pair % 4);  // experts 4 .. 11 have no token
  }
  check_against_naive(first, routing, 20, run(machine.moe, kShape, routing, 20, 0), active_isa());
  check_against_naive(second, routing, 20, run(machine.moe, kShape, routing, 20, 1), active_isa());
}

TEST_CASE("weights of experts without tokens and rows behind the batch are never read",
          "[cpu_experts]") {
  const ForcedIsa forced(any_isa());
  Layer layer(kShape, 12);
  for (int32_t expert_idx = 4; expert_idx < 12; ++expert_idx) {
    for (bf16& scale : layer.experts[expert_idx].down_proj.scale)
      scale = bf16(std::numeric_limits<float>::quiet_NaN());
  }
  Machine machine(kShape, 2);
  layer.load(machine.moe);
  std::mt19937 random(13);
  Routing routing = random_routing(6, kShape.hidden_size, 4, 4, random);
  for (int64_t col = 0; col < kShape.hidden_size; ++col) {
    routing.hidden[static_cast<size_t>(5 * kShape.hidden_size + col)] =
        bf16(std::numeric_limits<float>::quiet_NaN());
  }
  const std::vector<float> out = run(machine.moe, kShape, routing, 5);
  CHECK(std::all_of(out.begin(), out.end(), [](float value) { return std::isfinite(value); }));
  // The poison does its work where it is read.
  const std::vector<float> poisoned = run(machine.moe, kShape, routing, 6);
  CHECK(std::equal(out.begin(), out.end(), poisoned.begin()));
  CHECK(std::isnan(poisoned.back()));
}

TEST_CASE("an error of the source comes out of load_layer", "[cpu_experts]") {
  Machine machine(kShape, 3);
  CHECK_THROWS_AS(
      machine.moe.load_layer(
          0, [](int32_t, int32_t) -> ExpertTensors { throw LoadError("expert 3 is misshapen"); }),
      LoadError);
}

TEST_CASE("sizes that INT4 groups do not divide are refused by name", "[cpu_experts]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 1});
  MoeShape shape = kShape;
  shape.moe_intermediate_size = 48;
  CHECK_THROWS_AS(MoeExperts(shape, pool), ConfigError);
}

TEST_CASE("resident size is 4.5 bits a weight and the read bytes count each expert once",
          "[cpu_experts]") {
  const MoeShape shape{.hidden_size = 128,
                       .moe_intermediate_size = 64,
                       .n_routed_experts = 8,
                       .num_experts_per_tok = 2,
                       .num_moe_layers = 3,
                       .max_tokens = 4};
  Machine machine(shape, 2);
  const int64_t weights_per_expert = int64_t{3} * 128 * 64;
  CHECK(machine.moe.resident_size_bytes() == 3 * 8 * weights_per_expert * 9 / 16);
  CHECK(MoeExperts::layer_read_bytes(shape, 5) == 5 * weights_per_expert * 9 / 16);
}

}  // namespace
}  // namespace tandem::tests
