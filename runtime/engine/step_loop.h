// What the engine thread does with its sequences: plan, compute, sample, emit. No locks, no
// waiting.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/engine/active_request.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/step_batch.h"
#include "runtime/kv/prefix_cache.h"
#include "runtime/kv_store/page_store.h"
#include "runtime/sampling/sampler.h"
#include "runtime/scheduler/scheduler.h"

namespace tandem {

class StepLoop {
 public:
  // `on_pages` is called by other threads when pages have been read or written: waits_for_pages()
  // may be over.
  StepLoop(
      ForwardModel& model, const EngineOptions& options, std::function<void()> on_pages = [] {});
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
  void reset_prefix_cache();
  // What the model's pages hold is about to be lost, but for what is kept beside it: sequences
  // begin again with what they have so far for a prompt.
  void leave_kv_cache();

  // One step; tokens go to their sinks, requests that end become finished(). Throws what the model
  // throws.
  void step();

  // Ended requests whose last event is still to be delivered.
  [[nodiscard]] std::span<const std::unique_ptr<ActiveRequest>> finished() const {
    return finished_;
  }
  void deliver_finished();

  [[nodiscard]] bool empty() const { return requests_.empty(); }
  // Behind the last step: pages that have been read and written meanwhile. A step does so itself.
  void take_in_pages() {
    if (page_store_) page_store_->begin_plan();
  }
  // The last step could do nothing but wait for pages on their way from the disk.
  [[nodiscard]] bool waits_for_pages() const { return waits_for_pages_; }
  [[nodiscard]] EngineStats stats() const;
  [[nodiscard]] const SchedulerLimits& limits() const { return scheduler_.limits(); }
  // Requests admitted, or ended before that, since the last call.
  int64_t take_num_left_queue();

 private:
  void move_pages();
  void mark_pages_used(const Sequence& sequence);
  void note_admissions(std::span<const ScheduledItem> items);
  void compute(std::span<const ScheduledItem> items);
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
  std::unique_ptr<PageStore> page_store_;  // null: no page is kept beside the model's memory
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
  std::vector<KnownPage> restored_pages_;
  bool waits_for_pages_ = false;
};

}  // namespace tandem
