#include "runtime/engine/step_batch.h"

namespace tandem {

StepBatch::StepBatch(const SchedulerLimits& limits) {
  token_ids_.reserve(limits.max_batch_tokens);
  items_.reserve(limits.max_sequences);
  logit_token_idx_.reserve(limits.max_sequences);
  rows_.reserve(limits.max_sequences);
}

Batch StepBatch::build(std::span<const ScheduledItem> items) {
  token_ids_.clear();
  items_.clear();
  logit_token_idx_.clear();
  rows_.clear();
  for (const ScheduledItem& item : items) {
    Sequence& sequence = *item.sequence;
    const int32_t begin = sequence.num_computed_tokens;
    items_.push_back({.token_begin = static_cast<int32_t>(token_ids_.size()),
                      .num_tokens = item.num_tokens,
                      .context_size_tokens = begin,
                      .page_ids = sequence.pages.page_ids()});
    token_ids_.insert(token_ids_.end(), sequence.token_ids.begin() + begin,
                      sequence.token_ids.begin() + begin + item.num_tokens);
    const auto batch_end = static_cast<int32_t>(token_ids_.size());
    const int32_t sequence_end = begin + item.num_tokens;
    for (int32_t back = item.num_logit_rows; back > 0; --back) {
      logit_token_idx_.push_back(batch_end - back);
      rows_.push_back({&sequence, sequence_end - back});
    }
  }
  return {.token_ids = token_ids_, .items = items_, .logit_token_idx = logit_token_idx_};
}

}  // namespace tandem
