// Lists of tokens that a request allows or forbids (vLLM's allowed_token_ids and bad_words), beside
// whatever else holds its sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/sampling/token_constraint.h"

namespace tandem {

struct TokenLists {
  std::vector<int32_t> allowed_ids{};  // nothing else may come, stop tokens neither; empty: all
  std::vector<std::vector<int32_t>> forbidden{};  // runs of tokens that may not be completed

  [[nodiscard]] bool empty() const { return allowed_ids.empty() && forbidden.empty(); }
};

class ListedTokens : public TokenConstraint {
 public:
  // `inner` may be null. Where one of the stop tokens is allowed, all of them are.
  ListedTokens(TokenLists lists,
               std::span<const int32_t> stop_token_ids,
               std::shared_ptr<TokenConstraint> inner);

  Allowance allow(std::span<uint32_t> mask) override;
  [[nodiscard]] bool accept(int32_t token_id) override;
  [[nodiscard]] std::string feature() const override;

 private:
  [[nodiscard]] uint32_t allowed_word(size_t word_idx) const;
  [[nodiscard]] bool completes(const std::vector<int32_t>& run) const;

  TokenLists lists_;
  std::vector<uint32_t> allowed_words_;  // a mask of allowed_ids, as far as it has bits
  std::shared_ptr<TokenConstraint> inner_;
  bool may_stop_ = true;
  bool inner_has_none_ = false;    // as allow() last heard
  std::vector<int32_t> last_ids_;  // as many as the longest run needs
  size_t num_remembered_ = 0;
};

}  // namespace tandem
