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
  // What the logit rows are of, in their order: the token behind token_ids[token_idx].
  struct Row {
    Sequence* sequence = nullptr;
    int32_t token_idx = 0;
  };
  [[nodiscard]] std::span<const Row> rows() const { return rows_; }

 private:
  std::vector<int32_t> token_ids_;
  std::vector<BatchItem> items_;
  std::vector<int32_t> logit_token_idx_;
  std::vector<Row> rows_;
};

}  // namespace tandem
