// A request inside the engine, from submit() to its last event.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/engine/constraint_budget.h"
#include "runtime/engine/engine.h"
#include "runtime/sampling/sampler.h"
#include "runtime/sampling/token_constraint.h"
#include "runtime/scheduler/sequence.h"

namespace tandem {

struct ActiveRequest {
  ActiveRequest(uint64_t id, uint64_t seed, GenerationRequest request);

  // What the sampler may not choose now: stop tokens before min_new_tokens and where the constraint
  // does not let the answer end.
  [[nodiscard]] std::span<const int32_t> banned_token_ids(bool may_end) const;
  [[nodiscard]] bool is_stop_token(int32_t token_id) const;
  [[nodiscard]] bool repeats_itself() const;

  uint64_t request_id = 0;
  Sequence sequence;
  Sampler sampler;
  int32_t max_new_tokens = 0;
  int32_t min_new_tokens = 0;
  std::vector<int32_t> stop_token_ids;  // empty with ignore_eos
  int32_t num_logprobs = -1;
  RepetitionLimit repetition;
  std::shared_ptr<TokenConstraint> constraint;  // or null
  ConstraintBudget constraint_budget;
  int32_t next_prompt_logprob_idx = 0;  // the prompt token that is told next; 0: none is wanted
  std::shared_ptr<TokenSink> sink;

  int32_t num_new_tokens = 0;  // the stop token counts
  bool was_admitted = false;
  bool is_kept = false;  // through a sleep
  std::chrono::steady_clock::time_point submit_time = std::chrono::steady_clock::now();
  TokenEvent last_event;  // kFinished, filled when finished
};

}  // namespace tandem
