// Kimi-K2 straight from the equations of model/spec.md §3, FP32 with FP64 accumulation: the judge
// of every fast path. Slow by design; reads weights from the mapped checkpoint and dequantises on
// the fly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/model/checkpoint.h"

namespace tandem {

struct ReferenceOutput {
  std::vector<float> logits;  // [num_tokens, vocab_size]
  std::vector<std::vector<float>>
      hidden;  // per layer its input [num_tokens, hidden_size]; last: before the final norm
  std::vector<std::vector<int32_t>>
      expert_ids;  // per layer [num_tokens, num_experts_per_tok], ascending; empty for dense layers
  std::vector<std::vector<float>> expert_weights;  // in the order of expert_ids
};

enum class AttentionForm { kExpanded, kAbsorbed };  // equations 8, 9

// BF16 experts (Moonlight): as the file has them, or quantised to INT4 as production loads them.
// No difference for checkpoints whose experts are INT4 already.
enum class ExpertPrecision { kAsStored, kInt4 };

// kBf16 rounds what enters a product, the queries and the cached latent to BF16, as production
// does: what then differs between the two is the order of sums alone, and what differs between
// kBf16 and kFp32 is the price of BF16 itself.
enum class ActivationPrecision { kFp32, kBf16 };

class ReferenceModel {
 public:
  // The checkpoint outlives the model.
  explicit ReferenceModel(const Checkpoint& checkpoint,
                          ExpertPrecision expert_precision = ExpertPrecision::kAsStored,
                          ActivationPrecision activation_precision = ActivationPrecision::kFp32);
  // One sequence from position 0. Throws ConfigError for an id outside the vocabulary.
  [[nodiscard]] ReferenceOutput run(std::span<const int32_t> token_ids,
                                    AttentionForm form = AttentionForm::kExpanded) const;

 private:
  const Checkpoint& checkpoint_;
  ExpertPrecision expert_precision_;
  ActivationPrecision activation_precision_;
};

}  // namespace tandem
