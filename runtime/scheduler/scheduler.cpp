#include "runtime/scheduler/scheduler.h"

#include <algorithm>

#include "runtime/base/check.h"
#include "runtime/model/forward_model.h"

namespace tandem {
namespace {

// Pages that hold nothing but known prompt tokens; at least one token is left to compute, for it
// is the last one's logits that are wanted.
size_t num_reusable_pages(const Sequence& sequence) {
  return static_cast<size_t>((sequence.num_tokens() - 1) / kPageSizeTokens);
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, PrefixCache& cache)
    : limits_(limits), cache_(cache) {
  TANDEM_CHECK(limits.max_batch_tokens >= 1 && limits.max_logit_rows >= 1,
               "a step needs room for a token");
  limits_.prefill_chunk_tokens = std::max(limits_.prefill_chunk_tokens, 1);
  // Every running sequence then has room for a decode and a logit row in every step, and one in
  // prefill for at least one token.
  limits_.max_sequences = std::max(limits_.max_sequences, 1);
  limits_.max_sequences =
      std::min({limits_.max_sequences, limits_.max_batch_tokens, limits_.max_logit_rows});
  running_.reserve(limits_.max_sequences);
  items_.reserve(limits_.max_sequences);
}

void Scheduler::enqueue(Sequence& sequence) {
  TANDEM_CHECK(sequence.state == Sequence::State::kNew, "a sequence is enqueued once");
  TANDEM_CHECK(sequence.num_tokens() > 0, "a sequence has a prompt");
  TANDEM_CHECK(num_pages_for(sequence.max_total_tokens) <= cache_.num_pages(),
               "a sequence must fit into all pages");
  sequence.state = Sequence::State::kWaiting;
  if (cache_.enabled())
    extend_page_hashes(cache_.root_hash(), sequence.token_ids, sequence.page_hashes);
  waiting_.push_back(&sequence);
}

void Scheduler::remove(Sequence& sequence) {
  if (sequence.state == Sequence::State::kRunning) {
    running_.erase(std::find(running_.begin(), running_.end(), &sequence));
  } else if (sequence.state == Sequence::State::kWaiting) {
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), &sequence));
  }
  sequence.pages.release(cache_);
  sequence.state = Sequence::State::kNew;
}

std::span<const ScheduledItem> Scheduler::plan() {
  items_.clear();
  num_planned_tokens_ = 0;
  num_planned_rows_ = 0;
  preempted_in_step_ = false;
  plan_decodes();
  prefill_tokens_left_ =
      std::min(limits_.prefill_chunk_tokens, limits_.max_batch_tokens - num_planned_tokens_);
  plan_running_prefills();
  // Who was just preempted would take back the pages that its elders are about to need.
  if (!preempted_in_step_) admit_waiting();
  TANDEM_CHECK(!items_.empty() || empty(), "a step without work while sequences wait");
  return items_;
}

void Scheduler::complete() {
  for (const ScheduledItem& item : items_) {
    Sequence& sequence = *item.sequence;
    sequence.num_computed_tokens += item.num_tokens;
    if (!cache_.enabled()) continue;
    extend_page_hashes(cache_.root_hash(), sequence.token_ids, sequence.page_hashes);
    const size_t num_full = static_cast<size_t>(sequence.num_computed_tokens / kPageSizeTokens);
    sequence.pages.remember_full_pages(cache_, std::span(sequence.page_hashes).first(num_full));
  }
  items_.clear();
}

void Scheduler::plan_decodes() {
  for (size_t sequence_idx = 0; sequence_idx < running_.size(); ++sequence_idx) {
    Sequence& sequence = *running_[sequence_idx];
    if (sequence.num_uncomputed_tokens() != 1) continue;
    bool has_room = sequence.pages.extend_to(cache_, sequence.num_tokens());
    while (!has_room && sequence.state == Sequence::State::kRunning) {
      preempt_youngest();  // possibly this one, which is then the last
      has_room = sequence.state == Sequence::State::kRunning &&
                 sequence.pages.extend_to(cache_, sequence.num_tokens());
    }
    if (has_room) plan_item(sequence, 1);
  }
}

void Scheduler::plan_running_prefills() {
  const auto is_in_prefill = [](const Sequence* sequence) {
    return sequence->num_uncomputed_tokens() > 1;
  };
  auto num_later =
      static_cast<int32_t>(std::count_if(running_.begin(), running_.end(), is_in_prefill));
  for (Sequence* sequence : running_) {
    if (prefill_tokens_left_ == 0) return;
    if (is_in_prefill(sequence)) plan_prefill(*sequence, --num_later);
  }
}

void Scheduler::admit_waiting() {
  while (!waiting_.empty() && prefill_tokens_left_ > 0 &&
         num_planned_rows_ < limits_.max_sequences &&
         static_cast<int32_t>(running_.size()) < limits_.max_sequences) {
    Sequence& sequence = *waiting_.front();
    if (!admit(sequence)) return;
    waiting_.pop_front();
    running_.push_back(&sequence);
    plan_prefill(sequence, 0);
  }
}

bool Scheduler::admit(Sequence& sequence) {
  const size_t num_hashes = sequence.wants_all_logits ? 0
                                                      : std::min(num_reusable_pages(sequence),
                                                                 sequence.page_hashes.size());
  const int32_t num_known_pages =
      sequence.pages.acquire_prefix(cache_, std::span(sequence.page_hashes).first(num_hashes));
  // One page more than the tokens need, so that the first decodes do not preempt at once; but not
  // more than it will ever need, or it might never get in.
  const int32_t num_wanted_pages =
      std::min(num_pages_for(sequence.num_tokens()) + 1, num_pages_for(sequence.max_total_tokens));
  const bool has_room = num_wanted_pages - num_known_pages <= cache_.num_available();
  if (!has_room || waits_for_running_prefill(sequence)) {
    sequence.pages.release(cache_);
    return false;
  }
  const bool extended = sequence.pages.extend_to(cache_, sequence.num_tokens());
  TANDEM_CHECK(extended, "pages counted as available were not");
  sequence.num_computed_tokens = num_known_pages * kPageSizeTokens;
  if (sequence.num_cached_tokens < 0) sequence.num_cached_tokens = sequence.num_computed_tokens;
  sequence.state = Sequence::State::kRunning;
  return true;
}

// The next page of this prompt is just being computed by another sequence (several choices of one
// request, two clients with one long system prompt): wait for it rather than compute it twice.
bool Scheduler::waits_for_running_prefill(const Sequence& sequence) const {
  const size_t page_idx = static_cast<size_t>(sequence.pages.num_pages());
  if (!cache_.enabled() || sequence.wants_all_logits) return false;
  if (page_idx >= num_reusable_pages(sequence)) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const Sequence* other) {
    const bool computes_page =
        page_idx < other->page_hashes.size() &&
        other->num_computed_tokens / kPageSizeTokens <= static_cast<int32_t>(page_idx);
    return computes_page && other->page_hashes[page_idx] == sequence.page_hashes[page_idx];
  });
}

// A step has max_sequences logit rows: one is left for each of the `num_later` sequences that may
// finish their prompts in this step, too.
void Scheduler::plan_prefill(Sequence& sequence, int32_t num_later) {
  int32_t num_tokens = std::min(prefill_tokens_left_, sequence.num_uncomputed_tokens());
  if (sequence.wants_all_logits) {
    num_tokens = std::min(num_tokens, limits_.max_sequences - num_planned_rows_ - num_later);
  }
  plan_item(sequence, num_tokens);
  prefill_tokens_left_ -= num_tokens;
}

void Scheduler::plan_item(Sequence& sequence, int32_t num_tokens) {
  const int32_t num_last_rows = num_tokens == sequence.num_uncomputed_tokens() ? 1 : 0;
  const int32_t num_rows = sequence.wants_all_logits ? num_tokens : num_last_rows;
  items_.push_back({.sequence = &sequence, .num_tokens = num_tokens, .num_logit_rows = num_rows});
  num_planned_tokens_ += num_tokens;
  num_planned_rows_ += num_rows;
}

void Scheduler::preempt_youngest() {
  Sequence& sequence = *running_.back();
  TANDEM_CHECK(running_.size() > 1, "a sequence alone ran out of pages");
  running_.pop_back();
  waiting_.push_front(&sequence);
  sequence.pages.release(cache_);
  if (cache_.enabled())
    extend_page_hashes(cache_.root_hash(), sequence.token_ids, sequence.page_hashes);
  sequence.num_computed_tokens = 0;
  sequence.state = Sequence::State::kWaiting;
  ++sequence.num_preemptions;
  ++num_preemptions_;
  preempted_in_step_ = true;
}

}  // namespace tandem
