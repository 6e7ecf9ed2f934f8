// What the engine thread does with its sequences: plan, compute, sample, emit. No locks, no
// waiting.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/engine/active_request.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/step_batch.h"
#include "runtime/kv/prefix_cache.h"
#include "runtime/sampling/sampler.h"
#include "runtime/scheduler/scheduler.h"

namespace tandem {

class StepLoop {
 public:
  StepLoop(ForwardModel& model, const EngineOptions& options);
  ~StepLoop();
  StepLoop(const StepLoop&) = delete;
  StepLoop& operator=(const StepLoop&) = delete;

  void add(std::unique_ptr<ActiveRequest> request);
  void abort(uint64_t request_id);  // unknown ids are ignored
  // `reason` is what their last events say; "": somebody asked for it.
  void abort_all(const std::string& reason);
  // From now on all that have been added outlive a waking that fails.
  void keep_all();
  void abort_unkept(const std::string& reason);
  void fail_all(const std::string& message);
  void reset_prefix_cache() { cache_.forget_all(); }
  // What the pages hold is lost: sequences begin again with what they have so far for a prompt.
  void forget_kv_cache();

  // One step; tokens go to their sinks, requests that end become finished(). Throws what the model
  // throws.
  void step();

  // Ended requests whose last event is still to be delivered.
  [[nodiscard]] std::span<const std::unique_ptr<ActiveRequest>> finished() const {
    return finished_;
  }
  void deliver_finished();

  [[nodiscard]] bool empty() const { return requests_.empty(); }
  [[nodiscard]] EngineStats stats() const;
  // Requests admitted, or ended before that, since the last call.
  int64_t take_num_left_queue();

  // From the operating system: secret of the page hashes, base of the seeds.
  static uint64_t random_seed();

 private:
  void note_admissions(std::span<const ScheduledItem> items);
  void tell_prompt_token(ActiveRequest& request, int32_t token_idx, std::span<const float> logits);
  // Fills choices_ with how the tokens of all rows are chosen; false where one needs its logits.
  bool collect_choices();
  void take_tokens(const Batch& batch);    // computed and chosen by the model
  void sample_tokens(const Batch& batch);  // computed by the model, chosen here
  void take_token(ActiveRequest& request, std::span<const float> logits);
  void take_constrained_token(ActiveRequest& request, std::span<const float> logits);
  void choose_token(ActiveRequest& request, const SampleRequest& sample);
  void accept_token(ActiveRequest& request, const SampledToken& token);
  void emit_token(ActiveRequest& request, const SampledToken& token);
  void finish(ActiveRequest& request, FinishReason reason, std::string error = "");
  void leave_queue(ActiveRequest& request);

  ForwardModel& model_;
  PrefixCache cache_;
  Scheduler scheduler_;
  StepBatch batch_;
  std::vector<float> logits_;  // [max_sequences, vocab_size]
  SamplerScratch sampler_scratch_;
  std::vector<TokenChoice> choices_;    // [max_sequences] of a step whose tokens the model chooses
  std::vector<int32_t> chosen_ids_;     // as choices_
  std::vector<uint32_t> allowed_mask_;  // of the constrained request at hand
  std::unordered_map<uint64_t, std::unique_ptr<ActiveRequest>> requests_;
  std::unordered_map<const Sequence*, ActiveRequest*> request_of_;
  std::vector<std::unique_ptr<ActiveRequest>> finished_;
  EngineStats counters_;
  int64_t num_left_queue_ = 0;
};

}  // namespace tandem
