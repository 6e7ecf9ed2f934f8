#include "runtime/engine/step_loop.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/random_seed.h"

namespace tandem {
namespace {

SchedulerLimits scheduler_limits(const ForwardModel& model, const EngineOptions& options) {
  return {.max_sequences = options.max_sequences,
          .max_logit_rows = model.max_logit_rows(),
          .max_batch_tokens = model.max_batch_tokens(),
          .prefill_chunk_tokens = options.prefill_chunk_tokens,
          .prefill_alone_tokens = options.prefill_alone_tokens};
}

// Page hashes are keyed with it.
uint64_t secret_of(const PageStore* store) {
  const std::optional<uint64_t> secret = store != nullptr ? store->secret() : std::nullopt;
  return secret ? *secret : random_seed();
}

TokenEvent token_event(TokenEvent::Kind kind, const SampledToken& token) {
  TokenEvent event;
  event.kind = kind;
  event.token_id = token.token_id;
  event.rank = token.rank;
  event.logprob = token.logprob;
  event.top_logprobs.reserve(token.top_logprobs.size());
  for (const ScoredToken& scored : token.top_logprobs)
    event.top_logprobs.push_back({.token_id = scored.token_id, .logprob = scored.score});
  return event;
}

}  // namespace

StepLoop::StepLoop(ForwardModel& model,
                   const EngineOptions& options,
                   std::function<void()> on_pages)
    : model_(model),
      page_store_(options.prefix_cache ? PageStore::make(model,
                                                         {.folder = options.kv_folder,
                                                          .patience = options.kv_folder_patience,
                                                          .on_progress = std::move(on_pages)})
                                       : nullptr),
      cache_({.num_pages = model.num_kv_pages(),
              .enabled = options.prefix_cache,
              .secret = secret_of(page_store_.get()),
              .lists_changes = page_store_ != nullptr}),
      scheduler_(scheduler_limits(model, options), cache_, page_store_.get()),
      batch_(scheduler_.limits()),
      logits_(static_cast<size_t>(scheduler_.limits().max_sequences) *
              static_cast<size_t>(model.vocab_size())),
      allowed_mask_((static_cast<size_t>(model.vocab_size()) + 31) / 32) {
  finished_.reserve(scheduler_.limits().max_sequences);
  choices_.reserve(scheduler_.limits().max_sequences);
  chosen_ids_.reserve(scheduler_.limits().max_sequences);
}

StepLoop::~StepLoop() {
  for (auto& [request_id, request] : requests_) scheduler_.remove(request->sequence);
}

void StepLoop::add(std::unique_ptr<ActiveRequest> request) {
  scheduler_.enqueue(request->sequence);
  request_of_[&request->sequence] = request.get();
  requests_[request->request_id] = std::move(request);
}

void StepLoop::abort(uint64_t request_id) {
  const auto found = requests_.find(request_id);
  if (found != requests_.end()) finish(*found->second, FinishReason::kAborted);
}

void StepLoop::abort_all(const std::string& reason) {
  while (!requests_.empty()) {
    finish(*requests_.begin()->second, FinishReason::kAborted, reason);
  }
}

void StepLoop::keep_all() {
  for (const auto& [request_id, request] : requests_) request->is_kept = true;
}

void StepLoop::abort_unkept(const std::string& reason) {
  std::vector<ActiveRequest*> unkept;
  for (const auto& [request_id, request] : requests_) {
    if (!request->is_kept) unkept.push_back(request.get());
  }
  for (ActiveRequest* request : unkept) finish(*request, FinishReason::kAborted, reason);
}

void StepLoop::fail_all(const std::string& message) {
  while (!requests_.empty()) finish(*requests_.begin()->second, FinishReason::kError, message);
}

void StepLoop::reset_prefix_cache() {
  if (page_store_) page_store_->forget_all();
  cache_.forget_all(secret_of(page_store_.get()));
}

void StepLoop::leave_kv_cache() {
  if (page_store_) page_store_->keep_leaving(cache_.known_pages());
  scheduler_.preempt_all();
  cache_.forget_pages();
}

void StepLoop::step() {
  if (page_store_) page_store_->begin_plan();
  const std::span<const ScheduledItem> items = scheduler_.plan();
  if (page_store_) move_pages();
  waits_for_pages_ = items.empty() && scheduler_.restored().empty();
  if (!items.empty()) {
    note_admissions(items);
    compute(items);
  }
  // Now, as these pages may be others' after the next plan.
  if (page_store_) page_store_->keep_new(cache_.learned());
  cache_.clear_changes();
}

// What is about to be written over is copied out first, to come back another time.
void StepLoop::move_pages() {
  page_store_->keep_leaving(cache_.evicted());
  restored_pages_.clear();
  for (const RestoredPage& restored : scheduler_.restored()) {
    restored_pages_.push_back(restored.page);
    // Of one that has not left the queue they are counted when it does.
    const bool is_counted =
        restored.sequence->num_preemptions == 0 && request_of_.at(restored.sequence)->was_admitted;
    if (!is_counted) continue;
    counters_.cached_tokens += kPageSizeTokens;
    counters_.restored_tokens += kPageSizeTokens;
  }
  page_store_->restore(restored_pages_);
}

// When it begins and when it ends: what it found in the model's memory nobody else would know of.
void StepLoop::mark_pages_used(const Sequence& sequence) {
  if (!page_store_) return;
  const auto num_full = static_cast<size_t>(sequence.num_computed_tokens / kPageSizeTokens);
  const std::span<const PageHash> hashes(sequence.page_hashes);
  page_store_->mark_used(hashes.first(std::min(num_full, hashes.size())));
}

void StepLoop::compute(std::span<const ScheduledItem> items) {
  const Batch batch = batch_.build(items);
  if (model_.chooses_tokens() && collect_choices()) {
    take_tokens(batch);
  } else {
    sample_tokens(batch);
  }
}

bool StepLoop::collect_choices() {
  choices_.clear();
  for (const StepBatch::Row& row : batch_.rows()) {
    const ActiveRequest& request = *request_of_.at(row.sequence);
    const std::optional<TokenChoice> choice = request.sampler.next_choice();
    if (!choice || request.constraint || request.num_logprobs >= 0 ||
        !request.banned_token_ids(true).empty() || row.token_idx + 1 < row.sequence->num_tokens()) {
      return false;
    }
    choices_.push_back(*choice);
  }
  return !choices_.empty();
}

void StepLoop::take_tokens(const Batch& batch) {
  chosen_ids_.resize(choices_.size());
  model_.forward_and_choose(batch, choices_, chosen_ids_);
  ++counters_.num_steps;
  scheduler_.complete();
  size_t row_idx = 0;
  for (const StepBatch::Row& row : batch_.rows()) {
    ActiveRequest& request = *request_of_.at(row.sequence);
    const int32_t token_id = chosen_ids_[row_idx++];
    if (token_id < 0) {
      finish(request, FinishReason::kError, kNoPossibleToken);
      continue;
    }
    request.sampler.note_choice();
    accept_token(request, {.token_id = token_id, .top_logprobs = {}});
  }
}

void StepLoop::sample_tokens(const Batch& batch) {
  const MatrixView<float> logits(logits_.data(), static_cast<int64_t>(batch.logit_token_idx.size()),
                                 model_.vocab_size());
  model_.forward(batch, logits);
  ++counters_.num_steps;
  scheduler_.complete();
  int64_t row_idx = 0;
  for (const StepBatch::Row& row : batch_.rows()) {
    const std::span<const float> row_logits = logits.row(row_idx++);
    const auto request = request_of_.find(row.sequence);
    if (request == request_of_.end()) continue;  // ended by an earlier row of its own
    if (row.token_idx + 1 < row.sequence->num_tokens()) {
      tell_prompt_token(*request->second, row.token_idx + 1, row_logits);
    } else {
      take_token(*request->second, row_logits);
    }
  }
}

// Once and in order, also when the prompt is computed again after a preemption.
void StepLoop::tell_prompt_token(ActiveRequest& request,
                                 int32_t token_idx,
                                 std::span<const float> logits) {
  if (token_idx != request.next_prompt_logprob_idx) return;
  ++request.next_prompt_logprob_idx;
  if (request.next_prompt_logprob_idx == request.sequence.num_prompt_tokens) {
    request.sequence.wants_all_logits = false;
  }
  const int32_t token_id = request.sequence.token_ids[static_cast<size_t>(token_idx)];
  const SampledToken token =
      score_token(logits, token_id, std::max(request.num_logprobs, 0), sampler_scratch_);
  if (!request.sink->push(token_event(TokenEvent::Kind::kPromptToken, token))) {
    finish(request, FinishReason::kAborted);
  }
}

void StepLoop::note_admissions(std::span<const ScheduledItem> items) {
  for (const ScheduledItem& item : items) {
    ActiveRequest& request = *request_of_.at(item.sequence);
    if (request.was_admitted) continue;
    leave_queue(request);
    mark_pages_used(request.sequence);
    counters_.prompt_tokens += request.sequence.num_prompt_tokens;
    counters_.cached_tokens += request.sequence.num_cached_tokens;
    counters_.restored_tokens += request.sequence.num_restored_tokens;
  }
}

void StepLoop::take_token(ActiveRequest& request, std::span<const float> logits) {
  if (request.constraint) return take_constrained_token(request, logits);
  choose_token(request, {.logits = logits,
                         .banned_token_ids = request.banned_token_ids(true),
                         .num_logprobs = request.num_logprobs});
}

void StepLoop::take_constrained_token(ActiveRequest& request, std::span<const float> logits) {
  using Tokens = TokenConstraint::Allowance::Tokens;
  request.constraint_budget.earn();
  const auto [tokens, may_end] =
      request.constraint_budget.pay([&] { return request.constraint->allow(allowed_mask_); });
  if (request.constraint_budget.is_spent()) {
    request.last_event.by_demand = true;
    return finish(request, FinishReason::kError,
                  "finding out what may follow takes too long in " + request.constraint->feature());
  }
  // Complete: only a stop token could follow, so none need be chosen.
  if (tokens == Tokens::kNone && may_end) return finish(request, FinishReason::kStop);
  if (tokens == Tokens::kNone) {
    request.last_event.by_demand = true;
    return finish(request, FinishReason::kError,
                  "nothing can follow in " + request.constraint->feature());
  }
  SampleRequest sample{.logits = logits,
                       .banned_token_ids = request.banned_token_ids(may_end),
                       .num_logprobs = request.num_logprobs};
  if (tokens == Tokens::kMasked) {
    if (may_end) {
      for (const int32_t id : request.stop_token_ids) allowed_mask_[id / 32] |= 1u << (id % 32);
    }
    sample.allowed_mask = allowed_mask_;
  }
  choose_token(request, sample);
}

void StepLoop::choose_token(ActiveRequest& request, const SampleRequest& sample) {
  const Result<SampledToken, std::string> token = request.sampler.choose(sample, sampler_scratch_);
  if (!token) {
    request.last_event.by_demand = token.error() != kNoPossibleToken;
    const std::string where = request.constraint ? " in " + request.constraint->feature() : "";
    return finish(request, FinishReason::kError, token.error() + where);
  }
  accept_token(request, *token);
}

void StepLoop::accept_token(ActiveRequest& request, const SampledToken& token) {
  ++request.num_new_tokens;
  ++counters_.generated_tokens;
  if (request.is_stop_token(token.token_id)) {
    request.last_event.stop_token_id = token.token_id;
    return finish(request, FinishReason::kStop);
  }
  if (request.constraint &&
      !request.constraint_budget.pay([&] { return request.constraint->accept(token.token_id); })) {
    return finish(request, FinishReason::kError,
                  "a token that does not fit in " + request.constraint->feature());
  }
  request.sequence.token_ids.push_back(token.token_id);
  emit_token(request, token);
}

void StepLoop::emit_token(ActiveRequest& request, const SampledToken& token) {
  if (!request.sink->push(token_event(TokenEvent::Kind::kToken, token)))
    return finish(request, FinishReason::kAborted);
  if (request.repeats_itself()) return finish(request, FinishReason::kRepetition);
  if (request.num_new_tokens == request.max_new_tokens) finish(request, FinishReason::kLength);
}

void StepLoop::finish(ActiveRequest& request, FinishReason reason, std::string error) {
  if (!request.was_admitted) leave_queue(request);
  mark_pages_used(request.sequence);
  scheduler_.remove(request.sequence);
  TokenEvent& event = request.last_event;
  event.kind = TokenEvent::Kind::kFinished;
  event.finish_reason = reason;
  event.prompt_tokens = request.sequence.num_prompt_tokens;
  event.cached_tokens = std::max(request.sequence.num_cached_tokens, 0);
  event.completion_tokens = request.num_new_tokens;
  event.error = std::move(error);
  ++(reason == FinishReason::kAborted ? counters_.num_aborted : counters_.num_finished);
  request_of_.erase(&request.sequence);
  const auto found = requests_.find(request.request_id);
  TANDEM_CHECK(found != requests_.end(), "a request finished twice");
  finished_.push_back(std::move(found->second));
  requests_.erase(found);
}

void StepLoop::leave_queue(ActiveRequest& request) {
  request.was_admitted = true;
  request.last_event.queue_wait = std::chrono::steady_clock::now() - request.submit_time;
  ++num_left_queue_;
}

void StepLoop::deliver_finished() {
  // The receiver may be gone: what it says no longer matters.
  for (const std::unique_ptr<ActiveRequest>& request : finished_)
    static_cast<void>(request->sink->push(std::move(request->last_event)));
  finished_.clear();
}

EngineStats StepLoop::stats() const {
  EngineStats stats = counters_;
  stats.num_running = static_cast<int64_t>(scheduler_.running().size());
  stats.num_waiting = static_cast<int64_t>(scheduler_.waiting().size());
  stats.kv_pages_used = cache_.num_used();
  stats.kv_pages_total = cache_.num_pages();
  if (!page_store_) return stats;
  const PageStoreStats kept = page_store_->stats();
  stats.kv_host_pages_used = kept.host_pages_used;
  stats.kv_host_pages_total = kept.host_pages_total;
  stats.kv_disk_size_bytes = kept.disk.size_bytes;
  stats.kv_disk_limit_bytes = kept.disk.max_size_bytes;
  stats.kv_disk_pages_read = kept.pages_read;
  stats.kv_disk_pages_written = kept.pages_written;
  stats.kv_disk_failures = kept.failures;
  return stats;
}

int64_t StepLoop::take_num_left_queue() { return std::exchange(num_left_queue_, 0); }

}  // namespace tandem
