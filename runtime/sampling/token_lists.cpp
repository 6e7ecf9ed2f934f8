#include "runtime/sampling/token_lists.h"

#include <algorithm>
#include <utility>

namespace tandem {
namespace {

using Tokens = TokenConstraint::Allowance::Tokens;

uint32_t bit_of(int32_t token_id) { return 1u << (token_id % 32); }

}  // namespace

ListedTokens::ListedTokens(TokenLists lists,
                           std::span<const int32_t> stop_token_ids,
                           std::shared_ptr<TokenConstraint> inner)
    : lists_(std::move(lists)), inner_(std::move(inner)) {
  for (const int32_t id : lists_.allowed_ids) {
    const auto word_idx = static_cast<size_t>(id) / 32;
    if (allowed_words_.size() <= word_idx) allowed_words_.resize(word_idx + 1);
    allowed_words_[word_idx] |= bit_of(id);
  }
  may_stop_ = allowed_words_.empty() ||
              std::any_of(stop_token_ids.begin(), stop_token_ids.end(), [&](int32_t stop_id) {
                return (allowed_word(static_cast<size_t>(stop_id) / 32) & bit_of(stop_id)) != 0;
              });
  std::erase_if(lists_.forbidden, [](const auto& run) { return run.empty(); });
  for (const auto& run : lists_.forbidden)
    num_remembered_ = std::max(num_remembered_, run.size() - 1);
}

uint32_t ListedTokens::allowed_word(size_t word_idx) const {
  return word_idx < allowed_words_.size() ? allowed_words_[word_idx] : 0;
}

bool ListedTokens::completes(const std::vector<int32_t>& run) const {
  const size_t num_before = run.size() - 1;
  return num_before <= last_ids_.size() &&
         std::equal(run.begin(), run.end() - 1, last_ids_.end() - static_cast<int64_t>(num_before));
}

TokenConstraint::Allowance ListedTokens::allow(std::span<uint32_t> mask) {
  Allowance allowance = inner_ ? inner_->allow(mask) : Allowance{};
  inner_has_none_ = allowance.tokens == Tokens::kNone;
  if (inner_has_none_) return allowance;
  const auto begin_mask = [&] {
    if (allowance.tokens == Tokens::kAll) std::fill(mask.begin(), mask.end(), ~0u);
    allowance.tokens = Tokens::kMasked;
  };
  if (!allowed_words_.empty()) {
    begin_mask();
    for (size_t word_idx = 0; word_idx < mask.size(); ++word_idx)
      mask[word_idx] &= allowed_word(word_idx);
    allowance.may_end = allowance.may_end && may_stop_;
  }
  for (const auto& run : lists_.forbidden) {
    if (!completes(run) || static_cast<size_t>(run.back()) / 32 >= mask.size()) continue;
    begin_mask();
    mask[static_cast<size_t>(run.back()) / 32] &= ~bit_of(run.back());
  }
  const bool is_empty = allowance.tokens == Tokens::kMasked &&
                        std::all_of(mask.begin(), mask.end(), [](uint32_t word) { return !word; });
  if (is_empty) allowance.tokens = Tokens::kNone;
  return allowance;
}

bool ListedTokens::accept(int32_t token_id) {
  if (num_remembered_ > 0) {
    if (last_ids_.size() == num_remembered_) last_ids_.erase(last_ids_.begin());
    last_ids_.push_back(token_id);
  }
  return !inner_ || inner_->accept(token_id);
}

std::string ListedTokens::feature() const {
  if (inner_ && inner_has_none_) return inner_->feature();
  const std::string own = lists_.allowed_ids.empty() ? "bad_words" : "allowed_token_ids";
  return inner_ ? own + " beside " + inner_->feature() : own;
}

}  // namespace tandem
