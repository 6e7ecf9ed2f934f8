#include "gpu/cuda/core/step_inputs.h"

#include <algorithm>

#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

StepInputs::StepInputs(const Limits& limits)
    : limits_(limits),
      max_sequence_pages_((limits.max_context_tokens + kPageSizeTokens - 1) / kPageSizeTokens) {
  items_.reserve(static_cast<size_t>(limits.max_sequences));
}

int64_t StepInputs::num_values() const {
  return 4 * int64_t{limits_.max_batch_tokens} +
         int64_t{limits_.max_sequences} * max_sequence_pages_;
}

int64_t StepInputs::fill(const Batch& batch, int64_t num_rows, std::span<int32_t> values) {
  TANDEM_CHECK(static_cast<int64_t>(values.size()) == num_values(), "StepInputs: size of values");
  const auto num_tokens = static_cast<int64_t>(batch.token_ids.size());
  TANDEM_CHECK(num_tokens <= num_rows && num_rows <= limits_.max_batch_tokens &&
                   static_cast<int64_t>(batch.logit_token_idx.size()) <= num_rows,
               "StepInputs: more tokens than reserve() was told");
  const StepArrays<int32_t> out = arrays(values.data());
  std::copy(batch.token_ids.begin(), batch.token_ids.end(), out.token_ids);
  std::copy(batch.logit_token_idx.begin(), batch.logit_token_idx.end(), out.logit_token_idx);
  std::fill(out.token_ids + num_tokens, out.token_ids + num_rows, 0);
  std::fill(out.positions + num_tokens, out.positions + num_rows, 0);
  std::fill(out.kv_slots + num_tokens, out.kv_slots + num_rows, -1);
  std::fill(out.logit_token_idx + batch.logit_token_idx.size(), out.logit_token_idx + num_rows, 0);
  items_.clear();
  int32_t num_page_ids = 0;
  for (const BatchItem& item : batch.items) {
    if (item.num_tokens == 0) continue;
    const int32_t kv_len = item.context_size_tokens + item.num_tokens;
    const int32_t num_pages = (kv_len + kPageSizeTokens - 1) / kPageSizeTokens;
    TANDEM_CHECK(kv_len <= limits_.max_context_tokens &&
                     item.page_ids.size() >= static_cast<size_t>(num_pages),
                 "StepInputs: context");
    TANDEM_CHECK(items_.size() < static_cast<size_t>(limits_.max_sequences),
                 "StepInputs: too many sequences in a step");
    items_.push_back({.token_begin = item.token_begin,
                      .num_tokens = item.num_tokens,
                      .kv_len = kv_len,
                      .page_begin = num_page_ids});
    std::copy_n(item.page_ids.begin(), num_pages, out.page_ids + num_page_ids);
    for (int32_t token = 0; token < item.num_tokens; ++token) {
      const int32_t position = item.context_size_tokens + token;
      const int32_t row = item.token_begin + token;
      out.positions[row] = position;
      out.kv_slots[row] =
          item.page_ids[static_cast<size_t>(position / kPageSizeTokens)] * kPageSizeTokens +
          position % kPageSizeTokens;
    }
    num_page_ids += num_pages;
  }
  page_ids_ = {out.page_ids, static_cast<size_t>(num_page_ids)};
  return (out.page_ids - values.data()) + num_page_ids;
}

}  // namespace tandem::gpu::cuda
