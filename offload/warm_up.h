// Steps that a device computes before the first request: of every size for which it may choose how
// to compute anew, so that no request waits for that.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model/forward_model.h"

namespace tandem::offload {

// Equal sequences; their values mean nothing.
struct WarmUpStep {
  int32_t num_sequences = 1;
  int32_t num_tokens = 0;  // of each
  int32_t context_size_tokens = 0;
  [[nodiscard]] int32_t num_rows() const { return num_sequences * num_tokens; }
  bool operator==(const WarmUpStep&) const = default;
};

// Powers of two from 32 on, and what is largest: tokens of one sequence, sequences of one token,
// keys of a sequence whose tokens are few.
std::vector<WarmUpStep> warm_up_steps(int32_t max_batch_tokens, int32_t max_context_tokens);

// A step as ForwardModel takes it. Its views live as long as the object. Logits are asked for of
// the last num_logit_rows tokens, of fewer where there are fewer.
class WarmUpBatch {
 public:
  WarmUpBatch(const WarmUpStep& step, int32_t num_kv_pages, int32_t num_logit_rows);
  [[nodiscard]] Batch batch() const {
    return {.token_ids = token_ids_, .items = items_, .logit_token_idx = logit_token_idx_};
  }

 private:
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> page_ids_;
  std::vector<BatchItem> items_;
  std::vector<int32_t> logit_token_idx_;
};

}  // namespace tandem::offload
