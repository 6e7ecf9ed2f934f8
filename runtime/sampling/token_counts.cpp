#include "runtime/sampling/token_counts.h"

namespace tandem {
namespace {
size_t first_slot(int32_t token_id, size_t num_slots) {
  return (static_cast<uint32_t>(token_id) * 0x9E3779B1u) & (num_slots - 1);
}
}  // namespace

void TokenCounts::add_prompt(std::span<const int32_t> token_ids) {
  for (const int32_t token_id : token_ids) entry_of(token_id).is_in_prompt = true;
}

void TokenCounts::add_output(int32_t token_id) { ++entry_of(token_id).num_in_output; }

TokenCounts::Entry& TokenCounts::entry_of(int32_t token_id) {
  if (2 * (entries_.size() + 1) > slots_.size()) rehash(slots_.empty() ? 256 : 2 * slots_.size());
  size_t slot = first_slot(token_id, slots_.size());
  while (slots_[slot] >= 0) {
    Entry& entry = entries_[slots_[slot]];
    if (entry.token_id == token_id) return entry;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  slots_[slot] = static_cast<int32_t>(entries_.size());
  entries_.push_back({.token_id = token_id});
  return entries_.back();
}

void TokenCounts::rehash(size_t num_slots) {
  slots_.assign(num_slots, -1);
  for (size_t entry_idx = 0; entry_idx < entries_.size(); ++entry_idx) {
    size_t slot = first_slot(entries_[entry_idx].token_id, num_slots);
    while (slots_[slot] >= 0) slot = (slot + 1) & (num_slots - 1);
    slots_[slot] = static_cast<int32_t>(entry_idx);
  }
}

}  // namespace tandem
