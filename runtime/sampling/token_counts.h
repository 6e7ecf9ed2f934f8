// Which tokens a sequence has seen, for the penalties: a flat hash table of distinct tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

class TokenCounts {
 public:
  struct Entry {
    int32_t token_id = -1;
    int32_t num_in_output = 0;
    bool is_in_prompt = false;
  };

  void add_prompt(std::span<const int32_t> token_ids);
  void add_output(int32_t token_id);
  [[nodiscard]] std::span<const Entry> entries() const { return entries_; }  // distinct tokens

 private:
  Entry& entry_of(int32_t token_id);
  void rehash(size_t num_slots);

  std::vector<Entry> entries_;
  std::vector<int32_t> slots_;  // [power of two > 2 * entries], index into entries_ or -1
};

}  // namespace tandem
