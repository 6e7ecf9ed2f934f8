// What the scheduler knows of a request: its tokens and how many of them have their KV computed.
#pragma once

#include <cstdint>
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

  // The scheduler's own part.
  State state = State::kNew;
  int32_t num_computed_tokens = 0;  // leading tokens whose KV is in `pages`
  int32_t num_cached_tokens = -1;   // found at the first admission; -1: not admitted yet
  int32_t num_preemptions = 0;
  PageTable pages;
  std::vector<PageHash> page_hashes;  // of the full pages of token_ids

  [[nodiscard]] int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  [[nodiscard]] int32_t num_uncomputed_tokens() const { return num_tokens() - num_computed_tokens; }
};

}  // namespace tandem
