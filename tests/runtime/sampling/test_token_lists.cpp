// Tokens allowed and runs of tokens forbidden, alone and around another constraint.
#include "runtime/sampling/token_lists.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <iterator>
#include <memory>
#include <vector>

namespace tandem::tests {
namespace {

using Tokens = TokenConstraint::Allowance::Tokens;

constexpr int32_t kVocabSize = 100;
constexpr int32_t kStop = 99;

// Allows what it is told.
class Fixed : public TokenConstraint {
 public:
  Fixed(std::vector<int32_t> ids, bool may_end) : ids_(std::move(ids)), may_end_(may_end) {}
  Allowance allow(std::span<uint32_t> mask) override {
    std::fill(mask.begin(), mask.end(), 0);
    for (const int32_t id : ids_) mask[id / 32] |= 1u << (id % 32);
    return {ids_.empty() ? Tokens::kNone : Tokens::kMasked, may_end_};
  }
  [[nodiscard]] bool accept(int32_t token_id) override { return token_id != 7; }
  [[nodiscard]] std::string feature() const override { return "fixed"; }

 private:
  std::vector<int32_t> ids_;
  bool may_end_;
};

struct Seen {
  Tokens tokens;
  bool may_end;
  std::vector<int32_t> ids;
};

Seen look(TokenConstraint& constraint) {
  std::vector<uint32_t> mask((kVocabSize + 31) / 32, 0xABCDEF);
  const auto allowance = constraint.allow(mask);
  Seen seen{allowance.tokens, allowance.may_end, {}};
  if (seen.tokens != Tokens::kMasked) return seen;
  for (int32_t id = 0; id < kVocabSize; ++id) {
    if (mask[id / 32] >> (id % 32) & 1u) seen.ids.push_back(id);
  }
  return seen;
}

ListedTokens listed(TokenLists lists, std::shared_ptr<TokenConstraint> inner = nullptr) {
  const std::vector<int32_t> stop_ids = {kStop};
  return {std::move(lists), stop_ids, std::move(inner)};
}

TEST_CASE("only listed tokens may come, and the end where a stop token is listed", "[lists]") {
  ListedTokens open = listed({.allowed_ids = {64, 3, 31, 32, 3}});
  const Seen seen = look(open);
  CHECK(seen.tokens == Tokens::kMasked);
  CHECK(seen.ids == std::vector<int32_t>{3, 31, 32, 64});
  CHECK_FALSE(seen.may_end);
  ListedTokens ending = listed({.allowed_ids = {3, kStop}});
  CHECK(look(ending).may_end);
}

TEST_CASE("a forbidden run is free until only its last token is missing", "[lists]") {
  ListedTokens lists = listed({.forbidden = {{5}, {1, 2, 3}, {2, 4}, {}}});
  CHECK(std::ssize(look(lists).ids) == kVocabSize - 1);  // 5 is a run of its own
  for (const int32_t id : {0, 1, 2}) CHECK(lists.accept(id));
  const auto has = [&](int32_t id) {
    const auto ids = look(lists).ids;
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  CHECK_FALSE(has(3));
  CHECK_FALSE(has(4));
  CHECK_FALSE(has(5));
  CHECK(has(2));
  CHECK(look(lists).may_end);
  CHECK(lists.accept(2));
  CHECK(has(3));
  CHECK_FALSE(has(4));
  // Without anything that is forbidden now there is no mask.
  ListedTokens idle = listed({.forbidden = {{1, 2}}});
  CHECK(look(idle).tokens == Tokens::kAll);
}

TEST_CASE("lists and another constraint hold together, and say who left nothing", "[lists]") {
  ListedTokens both = listed({.allowed_ids = {3, 4, kStop}},
                             std::make_shared<Fixed>(std::vector<int32_t>{4, 5}, true));
  CHECK(look(both).ids == std::vector<int32_t>{4});
  CHECK(look(both).may_end);
  CHECK(both.accept(4));
  CHECK_FALSE(both.accept(7));
  ListedTokens nothing =
      listed({.allowed_ids = {3}}, std::make_shared<Fixed>(std::vector<int32_t>{4, 5}, true));
  CHECK(look(nothing).tokens == Tokens::kNone);
  CHECK_FALSE(look(nothing).may_end);
  CHECK(nothing.feature() == "allowed_token_ids beside fixed");
  ListedTokens done =
      listed({.forbidden = {{4}}}, std::make_shared<Fixed>(std::vector<int32_t>{4}, true));
  CHECK(look(done).tokens == Tokens::kNone);
  CHECK(look(done).may_end);
  CHECK(done.feature() == "bad_words beside fixed");
  ListedTokens ended =
      listed({.allowed_ids = {3}}, std::make_shared<Fixed>(std::vector<int32_t>{}, true));
  CHECK(look(ended).may_end);
  CHECK(ended.feature() == "fixed");
}

}  // namespace
}  // namespace tandem::tests
