// An expert of random INT4 weights, packed, and its equations in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "cpu_experts/expert_weights.h"
#include "runtime/model/expert_layout.h"
#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {

// Codes of all 16 kinds; products with inputs of size 1 are of size 1 or less.
struct Int4Projection {
  Int4Projection(Values& values, int64_t out, int64_t in)
      : codes(static_cast<size_t>(out * in / 2)),
        scales(static_cast<size_t>(out * in / 32)),
        matrix{{codes.data(), out, in / 2}, {scales.data(), out, in / 32}} {
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(values.below(256));
    for (bf16& scale : scales) {
      scale = bf16((0.5f + std::abs(values.next())) / (8.0f * std::sqrt(static_cast<float>(in))));
    }
  }
  Int4Projection(const Int4Projection&) = delete;
  Int4Projection& operator=(const Int4Projection&) = delete;
  [[nodiscard]] double weight(int64_t row, int64_t col) const {
    const int code = matrix.packed(row, col / 2) >> (col % 2 * 4) & 15;
    return (code - 8) * double{matrix.scale(row, col / 32).to_float()};
  }
  [[nodiscard]] double dot(int64_t row, std::span<const double> x) const {
    double sum = 0.0;
    for (size_t col = 0; col < x.size(); ++col) {
      sum += x[col] * weight(row, static_cast<int64_t>(col));
    }
    return sum;
  }
  std::vector<uint8_t> codes;
  std::vector<bf16> scales;
  Int4Matrix matrix;
};

struct Int4Expert {
  Int4Expert(Values& values, int64_t hidden_in, int64_t intermediate_in)
      : hidden(hidden_in),
        intermediate(intermediate_in),
        gate(values, intermediate, hidden),
        up(values, intermediate, hidden),
        down(values, hidden, intermediate) {}

  [[nodiscard]] int64_t packed_size_bytes() const {
    return expert_layout::expert_size_bytes(hidden, intermediate);
  }
  void pack(std::byte* packed) const {
    cpu_experts::pack_expert({gate.matrix, up.matrix, down.matrix},
                             {.begin = 0, .size = intermediate}, packed);
  }
  [[nodiscard]] std::vector<double> mlp(std::span<const double> x) const {
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
  Int4Projection gate, up, down;
};

// A layer of them with tokens and their choices; one expert is chosen by all tokens.
struct Int4Layer {
  Int4Layer(const ExpertsShape& shape_in, int64_t num_tokens, uint32_t seed)
      : shape(shape_in),
        values(seed),
        hidden(num_tokens, shape.hidden_size),
        residual(num_tokens, shape.hidden_size) {
    for (int32_t idx = 0; idx < shape.n_routed_experts; ++idx) {
      experts.push_back(
          std::make_unique<Int4Expert>(values, shape.hidden_size, shape.moe_intermediate_size));
    }
    values.fill(hidden.view());
    values.fill(residual.view());
    for (int64_t token = 0; token < num_tokens; ++token) {
      std::set<int32_t> chosen{std::min(2, shape.n_routed_experts - 1)};
      while (static_cast<int32_t>(chosen.size()) < shape.num_experts_per_tok) {
        chosen.insert(values.below(shape.n_routed_experts));
      }
      ids.insert(ids.end(), chosen.begin(), chosen.end());
      for (int32_t rank = 0; rank < shape.num_experts_per_tok; ++rank) {
        weights.push_back(0.2f + 0.1f * static_cast<float>(rank));
      }
    }
  }
  [[nodiscard]] MatrixView<const int32_t> id_view() const {
    return {ids.data(), hidden.rows, shape.num_experts_per_tok};
  }
  [[nodiscard]] MatrixView<const float> weight_view() const {
    return {weights.data(), hidden.rows, shape.num_experts_per_tok};
  }
  [[nodiscard]] std::unique_ptr<ExpertsWeight> load(Ops& ops) const {
    // 16-byte units, which the packing asks for.
    struct alignas(16) Unit {
      std::byte bytes[16];
    };
    const int64_t size_bytes = experts.front()->packed_size_bytes();
    std::vector<Unit> packed(static_cast<size_t>(size_bytes) / sizeof(Unit));
    auto* bytes = reinterpret_cast<std::byte*>(packed.data());
    return ops.load_experts(shape, [&](int32_t idx) {
      experts[static_cast<size_t>(idx)]->pack(bytes);
      return std::span<const std::byte>(bytes, static_cast<size_t>(size_bytes));
    });
  }
  // What a token's experts add to its residual.
  [[nodiscard]] std::vector<double> sum_of(int64_t token) const {
    std::vector<double> x;
    for (const bf16 value : hidden.view().row(token)) x.push_back(value.to_float());
    std::vector<double> sum(x.size());
    for (int64_t rank = 0; rank < shape.num_experts_per_tok; ++rank) {
      const int32_t id = id_view()(token, rank);
      const std::vector<double> mlp = experts[static_cast<size_t>(id)]->mlp(x);
      for (size_t col = 0; col < mlp.size(); ++col) {
        sum[col] += double{weight_view()(token, rank)} * mlp[col];
      }
    }
    return sum;
  }
  // The length of a row's error beside that of what the experts add to it.
  [[nodiscard]] double relative_error(int64_t token, std::span<const float> result) const {
    const std::vector<double> sum = sum_of(token);
    double error = 0.0;
    double length = 0.0;
    for (size_t col = 0; col < sum.size(); ++col) {
      const double difference = double{result[col]} -
                                double{residual.view()(token, static_cast<int64_t>(col))} -
                                sum[col];
      error += difference * difference;
      length += sum[col] * sum[col];
    }
    return std::sqrt(error / length);
  }

  ExpertsShape shape;
  Values values;
  std::vector<std::unique_ptr<Int4Expert>> experts;
  TestMatrix<bf16> hidden;
  TestMatrix<float> residual;  // before
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

}  // namespace tandem::gpu::testing
