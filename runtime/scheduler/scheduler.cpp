#include "runtime/scheduler/scheduler.h"

#include <algorithm>

#include "runtime/base/check.h"
#include "runtime/model/forward_model.h"

namespace tandem {
namespace {

// A step with more of them would keep others waiting: 8,192 tokens, 0.6 GB of Kimi-K2.
constexpr size_t kMaxRestoredPages = 128;

// Pages that hold nothing but known prompt tokens; at least one token is left to compute, for it
// is the last one's logits that are wanted.
size_t num_reusable_pages(const Sequence& sequence) {
  return static_cast<size_t>((sequence.num_tokens() - 1) / kPageSizeTokens);
}

template <typename Sequences>
void insert_by_rank(Sequences& sequences, Sequence& sequence) {
  const auto place = std::find_if(sequences.begin(), sequences.end(),
                                  [&](const Sequence* other) { return sequence.outranks(*other); });
  sequences.insert(place, &sequence);
}

bool is_in_prefill(const Sequence* sequence) { return sequence->num_uncomputed_tokens() > 1; }

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, PrefixCache& cache, PageSource* kept_pages)
    : limits_(limits), cache_(cache), kept_pages_(kept_pages) {
  TANDEM_CHECK(limits.max_batch_tokens >= 1 && limits.max_logit_rows >= 1,
               "a step needs room for a token");
  limits_.prefill_chunk_tokens =
      std::clamp(limits_.prefill_chunk_tokens, 1, limits_.max_batch_tokens);
  limits_.prefill_alone_tokens = std::clamp(limits_.prefill_alone_tokens,
                                            limits_.prefill_chunk_tokens, limits_.max_batch_tokens);
  // Every running sequence then has room for a decode and a logit row in every step, and one in
  // prefill for at least one token.
  limits_.max_sequences = std::max(limits_.max_sequences, 1);
  limits_.max_sequences =
      std::min({limits_.max_sequences, limits_.max_batch_tokens, limits_.max_logit_rows});
  running_.reserve(limits_.max_sequences);
  items_.reserve(limits_.max_sequences);
  if (kept_pages_ != nullptr) restored_.reserve(kMaxRestoredPages);
}

void Scheduler::enqueue(Sequence& sequence) {
  TANDEM_CHECK(sequence.state == Sequence::State::kNew, "a sequence is enqueued once");
  TANDEM_CHECK(sequence.num_tokens() > 0, "a sequence has a prompt");
  TANDEM_CHECK(num_pages_for(sequence.max_total_tokens) <= cache_.num_pages(),
               "a sequence must fit into all pages");
  sequence.state = Sequence::State::kWaiting;
  sequence.arrival = num_enqueued_++;
  sequence.root_hash = sequence.cache_salt.empty()
                           ? cache_.root_hash()
                           : salted_root_hash(cache_.root_hash(), sequence.cache_salt);
  if (cache_.enabled())
    extend_page_hashes(sequence.root_hash, sequence.token_ids, sequence.page_hashes);
  insert_by_rank(waiting_, sequence);
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

void Scheduler::preempt_all() {
  while (!running_.empty()) preempt_last();
}

std::span<const ScheduledItem> Scheduler::plan() {
  items_.clear();
  restored_.clear();
  num_planned_tokens_ = 0;
  num_planned_rows_ = 0;
  preempted_in_step_ = false;
  make_room();
  plan_decodes();
  const int32_t most_prefill_tokens =
      items_.empty() ? limits_.prefill_alone_tokens : limits_.prefill_chunk_tokens;
  prefill_tokens_left_ =
      std::min(most_prefill_tokens, limits_.max_batch_tokens - num_planned_tokens_);
  plan_prefills();
  TANDEM_CHECK(!items_.empty() || kept_pages_ != nullptr || empty(),
               "a step without work while sequences wait");
  return items_;
}

void Scheduler::complete() {
  for (const ScheduledItem& item : items_) {
    Sequence& sequence = *item.sequence;
    sequence.num_computed_tokens += item.num_tokens;
    if (!cache_.enabled()) continue;
    extend_page_hashes(sequence.root_hash, sequence.token_ids, sequence.page_hashes);
    const size_t num_full = static_cast<size_t>(sequence.num_computed_tokens / kPageSizeTokens);
    sequence.pages.remember_full_pages(cache_, std::span(sequence.page_hashes).first(num_full));
  }
  items_.clear();
}

// Sequences give way to one of a better priority while it finds no place or too few pages.
void Scheduler::make_room() {
  if (waiting_.empty()) return;
  Sequence& first = *waiting_.front();
  while (!running_.empty() && first.priority < running_.back()->priority) {
    const bool is_full = static_cast<int32_t>(running_.size()) >= limits_.max_sequences;
    if (!is_full && find_room(first) != Room::kMissing) return first.pages.release(cache_);
    preempt_last();
  }
}

void Scheduler::plan_decodes() {
  for (size_t sequence_idx = 0; sequence_idx < running_.size(); ++sequence_idx) {
    Sequence& sequence = *running_[sequence_idx];
    if (sequence.num_uncomputed_tokens() != 1) continue;
    bool has_room = sequence.pages.extend_to(cache_, sequence.num_tokens());
    while (!has_room && sequence.state == Sequence::State::kRunning) {
      TANDEM_CHECK(running_.size() > 1, "a sequence alone ran out of pages");
      preempted_in_step_ = true;
      preempt_last();  // possibly this one
      has_room = sequence.state == Sequence::State::kRunning &&
                 sequence.pages.extend_to(cache_, sequence.num_tokens());
    }
    if (has_room) plan_item(sequence, 1);
  }
}

// In the order of rank, running and waiting ones alike.
void Scheduler::plan_prefills() {
  auto num_later =
      static_cast<int32_t>(std::count_if(running_.begin(), running_.end(), is_in_prefill));
  // Who was just preempted would take back the pages that those before it are about to need.
  bool may_admit = !preempted_in_step_;
  const auto admit_before = [&](const Sequence* running) {
    while (may_admit && !waiting_.empty() && prefill_tokens_left_ > 0 &&
           (running == nullptr || waiting_.front()->outranks(*running))) {
      Sequence& sequence = *waiting_.front();
      may_admit = num_planned_rows_ + num_later < limits_.max_sequences &&
                  static_cast<int32_t>(running_.size()) < limits_.max_sequences && admit(sequence);
      if (may_admit) plan_prefill(sequence, num_later);
    }
  };
  const std::vector<Sequence*>& running = running_;
  for (size_t idx = 0; idx < running.size() && prefill_tokens_left_ > 0; ++idx) {
    Sequence* sequence = running[idx];
    if (!is_in_prefill(sequence)) continue;
    admit_before(sequence);
    while (running[idx] != sequence) ++idx;  // behind those just admitted
    if (prefill_tokens_left_ > 0) plan_prefill(*sequence, --num_later);
  }
  admit_before(nullptr);
}

// Takes the known pages of a sequence that may be admitted, or none.
Scheduler::Room Scheduler::find_room(Sequence& sequence) {
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
  if (has_room && !waits_for_running_prefill(sequence)) return Room::kThere;
  sequence.pages.release(cache_);
  return has_room ? Room::kSoonCached : Room::kMissing;
}

bool Scheduler::admit(Sequence& sequence) {
  if (find_room(sequence) != Room::kThere) return false;
  sequence.num_computed_tokens = sequence.pages.num_pages() * kPageSizeTokens;
  const bool extended = sequence.pages.extend_to(cache_, sequence.num_tokens());
  TANDEM_CHECK(extended, "pages counted as available were not");
  if (sequence.num_cached_tokens < 0) sequence.num_cached_tokens = sequence.num_computed_tokens;
  sequence.state = Sequence::State::kRunning;
  waiting_.pop_front();
  insert_by_rank(running_, sequence);
  return true;
}

// The next page of this prompt is just being computed by another sequence (several choices of one
// request, two clients with one long system prompt): wait for it rather than compute it twice. But
// not for one that comes after this: it may stand still for long.
bool Scheduler::waits_for_running_prefill(const Sequence& sequence) const {
  const size_t page_idx = static_cast<size_t>(sequence.pages.num_pages());
  if (!cache_.enabled() || sequence.wants_all_logits) return false;
  if (page_idx >= num_reusable_pages(sequence)) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const Sequence* other) {
    const bool computes_page =
        other->outranks(sequence) && page_idx < other->page_hashes.size() &&
        other->num_computed_tokens / kPageSizeTokens <= static_cast<int32_t>(page_idx);
    return computes_page && other->page_hashes[page_idx] == sequence.page_hashes[page_idx];
  });
}

// The next pages of a prompt, as far as they are at hand. False where the one behind them will be.
bool Scheduler::restore_pages(Sequence& sequence) {
  if (kept_pages_ == nullptr || sequence.wants_all_logits || !cache_.enabled() ||
      sequence.num_computed_tokens % kPageSizeTokens != 0) {
    return true;
  }
  const auto first_page_idx = static_cast<size_t>(sequence.num_computed_tokens / kPageSizeTokens);
  const size_t end = std::min(num_reusable_pages(sequence), sequence.page_hashes.size());
  size_t page_idx = first_page_idx;
  PagePresence presence = PagePresence::kAbsent;
  for (; page_idx < end; ++page_idx) {
    const PageHash hash = sequence.page_hashes[page_idx];
    presence = kept_pages_->look_up(hash);
    if (presence == PagePresence::kThere && restored_.size() == kMaxRestoredPages)
      presence = PagePresence::kComing;  // at the next step
    if (presence != PagePresence::kThere) break;
    restored_.push_back(
        {.page = {hash, sequence.pages.page_ids()[page_idx]}, .sequence = &sequence});
    sequence.num_computed_tokens += kPageSizeTokens;
    if (sequence.num_preemptions > 0) continue;  // it has run before: nothing more counts as found
    sequence.num_cached_tokens += kPageSizeTokens;
    sequence.num_restored_tokens += kPageSizeTokens;
  }
  sequence.pages.remember_full_pages(cache_, std::span(sequence.page_hashes).first(page_idx));
  if (presence == PagePresence::kComing) ask_ahead(sequence, page_idx + 1);
  return presence != PagePresence::kComing && presence != PagePresence::kNoRoom;
}

// So that they come while those before them do.
void Scheduler::ask_ahead(const Sequence& sequence, size_t page_idx) {
  const size_t end = std::min({num_reusable_pages(sequence), sequence.page_hashes.size(),
                               page_idx + static_cast<size_t>(kept_pages_->read_ahead_pages())});
  while (page_idx < end) {
    const PagePresence presence = kept_pages_->look_up(sequence.page_hashes[page_idx++]);
    if (presence == PagePresence::kAbsent || presence == PagePresence::kNoRoom) return;
  }
}

// A step has max_sequences logit rows: one is left for each of the `num_later` sequences that may
// finish their prompts in this step, too.
void Scheduler::plan_prefill(Sequence& sequence, int32_t num_later) {
  if (!restore_pages(sequence)) return;
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

void Scheduler::preempt_last() {
  Sequence& sequence = *running_.back();
  running_.pop_back();
  sequence.pages.release(cache_);
  if (cache_.enabled())
    extend_page_hashes(sequence.root_hash, sequence.token_ids, sequence.page_hashes);
  sequence.num_computed_tokens = 0;
  sequence.state = Sequence::State::kWaiting;
  insert_by_rank(waiting_, sequence);
  ++sequence.num_preemptions;
  ++num_preemptions_;
}

}  // namespace tandem
