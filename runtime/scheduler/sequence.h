// What the scheduler knows of a request: its tokens and how many of them have their KV computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/kv/page_hash.h"
#include "runtime/kv/page_table.h"

namespace tandem {

struct Sequence {
  enum class State { kNew, kWaiting, kRunning };

  std::vector<int32_t> token_ids;  // prompt, then what was generated
  int32_t num_prompt_tokens = 0;
  int32_t max_total_tokens = 0;  // token_ids never gets longer
  // Logits of every token are wanted, not of the last alone: no page of the cache is reused.
  bool wants_all_logits = false;
  int32_t priority = 0;    // lower ones go first
  std::string cache_salt;  // pages are shared with sequences of the same salt alone

  // The scheduler's own part.
  State state = State::kNew;
  uint64_t arrival = 0;             // counts up from one enqueue() to the next
  PageHash root_hash;               // of its salt
  int32_t num_computed_tokens = 0;  // leading tokens whose KV is in `pages`
  int32_t num_cached_tokens = -1;   // found at the first admission; -1: not admitted yet
  int32_t num_restored_tokens = 0;  // of these: from pages kept beside the model's memory
  int32_t num_preemptions = 0;
  PageTable pages;
  std::vector<PageHash> page_hashes;  // of the full pages of token_ids

  // Whether it goes before `other`.
  [[nodiscard]] bool outranks(const Sequence& other) const {
    return priority != other.priority ? priority < other.priority : arrival < other.arrival;
  }
  [[nodiscard]] int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  [[nodiscard]] int32_t num_uncomputed_tokens() const { return num_tokens() - num_computed_tokens; }
};

}  // namespace tandem
