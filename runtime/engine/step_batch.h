// A planned step in the form that ForwardModel takes; its vectors are reused from step to step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/model/forward_model.h"
#include "runtime/scheduler/scheduler.h"

namespace tandem {

class StepBatch {
 public:
  explicit StepBatch(const SchedulerLimits& limits);

  // The views are valid until the next call.
  Batch build(std::span<const ScheduledItem> items);
  // Who gets the logit rows, in their order.
  [[nodiscard]] std::span<Sequence* const> row_sequences() const { return row_sequences_; }

 private:
  std::vector<int32_t> token_ids_;
  std::vector<BatchItem> items_;
  std::vector<int32_t> logit_token_idx_;
  std::vector<Sequence*> row_sequences_;
};

}  // namespace tandem
