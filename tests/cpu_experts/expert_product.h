// One product of packed weights by the kernels alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu_experts/dispatch.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/expert_weights.h"
#include "tests/cpu_experts/expert_fixture.h"

namespace tandem::tests {

// W x by the kernels: activations before and behind which poison stands.
class Product {
 public:
  Product(const cpu_experts::ExpertKernels& kernels, const OwnedInt4& weights)
      : kernels_(kernels), weights_(weights) {
    const int64_t stride =
        cpu_experts::num_col_blocks(weights.in_features) * cpu_experts::kBlockSizeBytes;
    packed_.resize(static_cast<size_t>(
        cpu_experts::packed_size_bytes(weights.out_features, weights.in_features)));
    cpu_experts::pack_matrix(weights.view(), {0, weights.out_features, 0, weights.in_features},
                             packed_.data(), stride);
  }

  // [num_tokens, out_features]
  std::vector<float> run(const bf16* x, int64_t num_tokens) const {
    const int64_t num_blocks = cpu_experts::num_col_blocks(weights_.in_features);
    const int64_t record_size_bytes = kernels_.input_record_size_bytes;
    constexpr int64_t kPoisonBytes = cpu_experts::kReadBehindBytes;
    std::vector<std::byte> row(static_cast<size_t>(2 * num_blocks * record_size_bytes));
    std::vector<std::byte> x_records(
        static_cast<size_t>(2 * num_blocks * num_tokens * record_size_bytes + 2 * kPoisonBytes),
        std::byte{0xFF});
    std::vector<float> out(static_cast<size_t>(num_tokens * weights_.out_features), 0.0f);
    std::vector<float*> outputs;
    for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
      kernels_.prepare(&x[token_idx * weights_.in_features].bits, weights_.in_features, row.data());
      for (int64_t group = 0; group < 2 * num_blocks; ++group) {
        std::memcpy(&x_records[kPoisonBytes + (group * num_tokens + token_idx) * record_size_bytes],
                    &row[group * record_size_bytes], static_cast<size_t>(record_size_bytes));
      }
      outputs.push_back(out.data() + token_idx * weights_.out_features);
    }
    const std::vector<float> ones(static_cast<size_t>(num_tokens), 1.0f);
    kernels_.input_product({.weights = reinterpret_cast<const uint8_t*>(packed_.data()),
                            .num_row_blocks = weights_.out_features / cpu_experts::kBlockRows,
                            .num_col_blocks = num_blocks,
                            .x = x_records.data() + kPoisonBytes,
                            .routing_weights = ones.data(),
                            .out = outputs.data(),
                            .num_tokens = static_cast<int32_t>(num_tokens)});
    return out;
  }

 private:
  const cpu_experts::ExpertKernels& kernels_;
  const OwnedInt4& weights_;
  std::vector<std::byte> packed_;
};

}  // namespace tandem::tests
