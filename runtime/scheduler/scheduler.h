// Decides which tokens make the next step. Pure bookkeeping, one thread, no clock: a simulation
// runs it with no model.
//
//   step = one token of every decoding sequence, then prompt chunks in the order of rank, up to
//          the limits.
// Where nothing decodes, prompts may take more: a step reads the experts once, however many tokens
// it has, and nobody waits for its end but those that come meanwhile.
//
// Rank is priority, then arrival. The first of those that wait is admitted when its tokens and one
// page more find room, its prompt going before those of running sequences that it outranks. When
// decodes run out of pages, the sequence of the last rank gives its pages back and waits; its
// tokens, generated ones included, are its prompt then. It also gives way when one of a better
// priority finds no room, but never to one of its own.
//
// Pages of a running prompt that are kept beside the model's memory are copied back in place of
// being computed; while the next one is on its way, nothing of this prompt is computed.
//
// Why nobody starves among equals: within a priority, running sequences are older than waiting
// ones, always. The first in rank is never preempted, for alone it has all pages and the request
// was checked against them; so every step computes at least one token of it, or admits it, or
// computes the page that it waits for; or its next page is on its way.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "runtime/kv/prefix_cache.h"
#include "runtime/kv_store/page_source.h"
#include "runtime/scheduler/sequence.h"

namespace tandem {

struct SchedulerLimits {
  int32_t max_sequences = 64;  // running at once; not more than the two below
  int32_t max_logit_rows = 64;
  int32_t max_batch_tokens = 512;      // of a step
  int32_t prefill_chunk_tokens = 512;  // of a step beside the decodes
  int32_t prefill_alone_tokens = 0;    // of a step without decodes; not less than those beside them
};

struct ScheduledItem {
  Sequence* sequence = nullptr;
  int32_t num_tokens = 0;      // from sequence->num_computed_tokens on
  int32_t num_logit_rows = 0;  // wanted of its last tokens: 0; 1 when its last is the sequence's;
                               // all of a sequence that wants them
};

struct RestoredPage {
  KnownPage page;
  const Sequence* sequence = nullptr;
};

class Scheduler {
 public:
  // What is pointed to outlives the scheduler; `kept_pages` is null where there are none.
  Scheduler(const SchedulerLimits& limits, PrefixCache& cache, PageSource* kept_pages = nullptr);

  // `sequence` stays where it is until remove(). Its max_total_tokens fit into all pages.
  void enqueue(Sequence& sequence);
  // Finished or aborted, in any state; its pages stay known to the cache. Not between plan() and
  // complete().
  void remove(Sequence& sequence);

  // All give their pages back and wait. Not between plan() and complete().
  void preempt_all();

  // The next step; takes its pages. Empty only when there is no sequence, or all that run get or
  // wait for kept pages. Valid until the next call.
  std::span<const ScheduledItem> plan();
  // Pages that get their kept contents before the planned step, which reads them.
  [[nodiscard]] std::span<const RestoredPage> restored() const { return restored_; }
  // The planned step was computed.
  void complete();

  [[nodiscard]] std::span<Sequence* const> running() const { return running_; }
  [[nodiscard]] const std::deque<Sequence*>& waiting() const { return waiting_; }
  [[nodiscard]] bool empty() const { return running_.empty() && waiting_.empty(); }
  [[nodiscard]] int64_t num_preemptions() const { return num_preemptions_; }
  // As they are kept to: none contradicts another.
  [[nodiscard]] const SchedulerLimits& limits() const { return limits_; }

 private:
  void make_room();
  void plan_decodes();
  void plan_prefills();
  enum class Room { kThere, kMissing, kSoonCached };
  Room find_room(Sequence& sequence);
  bool admit(Sequence& sequence);
  [[nodiscard]] bool waits_for_running_prefill(const Sequence& sequence) const;
  void plan_prefill(Sequence& sequence, int32_t num_later);
  bool restore_pages(Sequence& sequence);
  void ask_ahead(const Sequence& sequence, size_t page_idx);
  void plan_item(Sequence& sequence, int32_t num_tokens);
  void preempt_last();

  SchedulerLimits limits_;
  PrefixCache& cache_;
  std::vector<Sequence*> running_;  // first in rank first
  std::deque<Sequence*> waiting_;   // first in rank first
  PageSource* kept_pages_;
  std::vector<ScheduledItem> items_;
  std::vector<RestoredPage> restored_;
  int32_t num_planned_tokens_ = 0;
  int32_t num_planned_rows_ = 0;
  int32_t prefill_tokens_left_ = 0;  // of this step
  bool preempted_in_step_ = false;
  uint64_t num_enqueued_ = 0;
  int64_t num_preemptions_ = 0;
};

}  // namespace tandem
