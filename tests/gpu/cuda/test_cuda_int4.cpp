// The experts' kernels on a card, straight from the packed layout.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <memory>
#include <set>
#include <vector>

#include "cpu_experts/expert_weights.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/int4_experts.h"
#include "gpu/cuda/stream.h"
#include "runtime/model/expert_layout.h"
#include "tests/gpu/cuda/ops_test_support.h"

namespace tandem::gpu::cuda::testing {
namespace {

// A projection with codes of all 16 kinds.
struct Projection {
  Projection(Values& values, int64_t out, int64_t in)
      : codes(static_cast<size_t>(out * in / 2)),
        scales(static_cast<size_t>(out * in / 32)),
        matrix{{codes.data(), out, in / 2}, {scales.data(), out, in / 32}} {
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(values.below(256));
    for (bf16& scale : scales) {
      scale = bf16((0.5f + std::abs(values.next())) / (8.0f * std::sqrt(static_cast<float>(in))));
    }
  }
  Projection(const Projection&) = delete;
  Projection& operator=(const Projection&) = delete;
  [[nodiscard]] double dot(int64_t row, const std::vector<double>& x) const {
    double sum = 0.0;
    for (size_t col = 0; col < x.size(); ++col) {
      const int code =
          codes[static_cast<size_t>(row) * x.size() / 2 + col / 2] >> (col % 2 * 4) & 15;
      sum += x[col] * (code - 8) *
             double{scales[(static_cast<size_t>(row) * x.size() + col) / 32].to_float()};
    }
    return sum;
  }
  std::vector<uint8_t> codes;
  std::vector<bf16> scales;
  Int4Matrix matrix;
};

struct Expert {
  Expert(Values& values, int64_t hidden_in, int64_t intermediate_in)
      : hidden(hidden_in),
        intermediate(intermediate_in),
        gate(values, intermediate, hidden),
        up(values, intermediate, hidden),
        down(values, hidden, intermediate) {}

  // Row blocks of gate and up in turn, then down.
  [[nodiscard]] std::vector<std::byte> packed() const {
    using expert_layout::packed_size_bytes;
    const int64_t gate_size_bytes = packed_size_bytes(intermediate, hidden);
    const int64_t block_size_bytes = packed_size_bytes(expert_layout::kBlockRows, hidden);
    std::vector<std::byte> bytes(
        static_cast<size_t>(2 * gate_size_bytes + packed_size_bytes(hidden, intermediate)));
    const cpu_experts::MatrixPart rows{0, intermediate, 0, hidden};
    cpu_experts::pack_matrix(gate.matrix, rows, bytes.data(), 2 * block_size_bytes);
    cpu_experts::pack_matrix(up.matrix, rows, bytes.data() + block_size_bytes,
                             2 * block_size_bytes);
    cpu_experts::pack_matrix(down.matrix, {0, hidden, 0, intermediate},
                             bytes.data() + 2 * gate_size_bytes,
                             packed_size_bytes(expert_layout::kBlockRows, intermediate));
    return bytes;
  }
  [[nodiscard]] std::vector<double> mlp(const std::vector<double>& x) const {
    std::vector<double> activated;
    for (int64_t row = 0; row < intermediate; ++row) {
      const double z = gate.dot(row, x);
      activated.push_back(z / (1.0 + std::exp(-z)) * up.dot(row, x));
    }
    std::vector<double> out;
    for (int64_t row = 0; row < hidden; ++row) out.push_back(down.dot(row, activated));
    return out;
  }

  int64_t hidden;
  int64_t intermediate;
  Projection gate, up, down;
};

template <typename T>
T* as(const DeviceBuffer& buffer) {
  return reinterpret_cast<T*>(buffer.data());
}

void check_layer(
    Ops& ops, int64_t hidden, int64_t intermediate, int64_t num_tokens, ExpertPath path) {
  constexpr int32_t kExperts = 9;
  constexpr int32_t kElsewhere = 5;  // an expert that is not on the card
  constexpr int64_t kChosen = 4;
  Values values(static_cast<uint32_t>(hidden + num_tokens));
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<std::unique_ptr<DeviceBuffer>> packed;
  std::vector<const std::byte*> addresses;
  for (int32_t idx = 0; idx < kExperts; ++idx) {
    experts.push_back(std::make_unique<Expert>(values, hidden, intermediate));
    packed.push_back(ops.upload(experts.back()->packed()));
    addresses.push_back(idx == kElsewhere ? nullptr : packed.back()->data());
  }
  const auto x = values.matrix<bf16>(num_tokens, hidden);
  const auto before = values.matrix<float>(num_tokens, hidden);
  std::vector<int32_t> ids;
  std::vector<float> weights;
  for (int64_t token = 0; token < num_tokens; ++token) {
    std::set<int32_t> chosen{2};  // expert 2 has all tokens
    while (static_cast<int64_t>(chosen.size()) < kChosen) chosen.insert(values.below(kExperts));
    ids.insert(ids.end(), chosen.begin(), chosen.end());
    for (int64_t rank = 0; rank < kChosen; ++rank)
      weights.push_back(0.2f + 0.1f * static_cast<float>(rank));
  }

  const int64_t num_pairs = num_tokens * kChosen;
  const CardMatrix<bf16> card_x(ops, x.view());
  const CardMatrix<int32_t> card_ids(ops,
                                     MatrixView<const int32_t>(ids.data(), num_tokens, kChosen));
  const CardMatrix<float> card_weights(
      ops, MatrixView<const float>(weights.data(), num_tokens, kChosen));
  const CardVector<const std::byte*> card_addresses(ops, addresses);
  CardMatrix<float> out(ops, before.view());
  const auto sorted = ops.allocate(static_cast<size_t>(num_pairs) * sizeof(int32_t));
  const auto tiles = ops.allocate(static_cast<size_t>(max_expert_tiles(num_pairs, kExperts, path)) *
                                  sizeof(ExpertTile));
  const auto num_tiles = ops.allocate(sizeof(int32_t));
  const auto activated = ops.allocate(static_cast<size_t>(num_pairs * intermediate) * sizeof(bf16));
  const auto expert_out = ops.allocate(static_cast<size_t>(num_pairs * hidden) * sizeof(bf16));
  const Stream stream;
  launch_int4_experts({.hidden = card_x.view(),
                       .expert_ids = card_ids.view(),
                       .expert_weights = card_weights.view(),
                       .experts = card_addresses.view().data(),
                       .n_routed_experts = kExperts,
                       .moe_intermediate_size = static_cast<int32_t>(intermediate),
                       .sorted_pairs = as<int32_t>(*sorted),
                       .tiles = as<ExpertTile>(*tiles),
                       .num_tiles = as<int32_t>(*num_tiles),
                       .activated = as<bf16>(*activated),
                       .expert_out = as<bf16>(*expert_out),
                       .out = out.view(),
                       .adds = true},
                      path, stream.get());
  stream.synchronize();
  const MatrixView<const float> actual = out.fetch();
  CHECK(out.padding_is_untouched());
  for (int64_t token = 0; token < num_tokens; ++token) {
    std::vector<double> hidden_row;
    for (const bf16 value : x.view().row(token)) hidden_row.push_back(value.to_float());
    std::vector<double> expected(static_cast<size_t>(hidden));
    for (int64_t rank = 0; rank < kChosen; ++rank) {
      const auto pair = static_cast<size_t>(token * kChosen + rank);
      if (ids[pair] == kElsewhere) continue;
      const std::vector<double> mlp = experts[static_cast<size_t>(ids[pair])]->mlp(hidden_row);
      for (size_t col = 0; col < mlp.size(); ++col) expected[col] += weights[pair] * mlp[col];
    }
    double error = 0.0;
    double length = 0.0;
    for (int64_t col = 0; col < hidden; ++col) {
      const double difference =
          actual(token, col) - before.view()(token, col) - expected[static_cast<size_t>(col)];
      error += difference * difference;
      length += expected[static_cast<size_t>(col)] * expected[static_cast<size_t>(col)];
    }
    INFO("hidden " << hidden << ", tokens " << num_tokens << ", token " << token);
    // Two roundings to BF16, of the activation and of an expert's output; FP32 is far below.
    REQUIRE(std::sqrt(error / length) <= 2.0 * kBf16UnitRoundoff / 2);
  }
}

}  // namespace

TEST_CASE("on a card INT4 experts equal their equations on both paths", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  for (const ExpertPath path : {ExpertPath::kFew, ExpertPath::kMany}) {
    for (const int64_t num_tokens : {1, 3, 8, 9, 65}) {
      check_layer(*ops, 64, 32, num_tokens, path);
      check_layer(*ops, 288, 96, num_tokens, path);
    }
    check_layer(*ops, 1'024, 512, 5, path);
  }
}

}  // namespace tandem::gpu::cuda::testing
