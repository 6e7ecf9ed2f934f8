// Keeps the strings of one JSON text to a LengthPlan while it is written: which tokens would make
// one too long, or end one too soon. That the text is JSON is its grammar's business.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/length_plan.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem {

// Where a JSON text is, byte by byte, and at which place of a plan.
class JsonCursor {
 public:
  explicit JsonCursor(const LengthPlan& plan) : plan_(&plan) {}

  // False when the byte breaks a limit.
  bool push(char byte);

  enum class Inside { kStructure, kKey, kValue };
  [[nodiscard]] Inside inside() const { return inside_; }
  [[nodiscard]] bool in_escape() const { return after_backslash_ || num_hex_left_ > 0; }
  // Half of a surrogate pair has been written: the other half is the same character.
  [[nodiscard]] bool in_pair() const { return expects_low_half_; }
  [[nodiscard]] int64_t num_characters() const { return num_characters_; }  // of the string
  // Of the string value being written; in the structure, of the next one unless a bracket comes.
  [[nodiscard]] StringLengths lengths() const;

 private:
  struct Frame {
    int32_t place = LengthPlan::kUnlimited;
    bool is_object = false;
    bool expects_key = false;
    bool after_value = false;
    int32_t member_place = LengthPlan::kUnlimited;
    int64_t item_idx = 0;
  };

  [[nodiscard]] int32_t value_place() const;
  void push_structure(char byte);
  bool push_string(char byte);
  bool end_string();

  const LengthPlan* plan_;
  std::vector<Frame> frames_;
  Inside inside_ = Inside::kStructure;
  std::string key_;
  int32_t string_place_ = LengthPlan::kUnlimited;
  int64_t num_characters_ = 0;
  bool after_backslash_ = false;
  int num_hex_left_ = 0;  // of \uHHHH
  uint32_t escaped_ = 0;
  bool expects_low_half_ = false;
};

// What the tokens of a vocabulary do to the lengths of strings, as masks of
// [(vocab_size + 31) / 32] words: built once, some MiB.
class TokenLengths {
 public:
  using Mask = std::vector<uint32_t>;
  static constexpr int64_t kMaxCounted = 96;  // characters; few tokens have more

  // `tokenizer` outlives this.
  TokenLengths(const Tokenizer& tokenizer, int32_t vocab_size);

  // Begun inside a string: tokens with at most so many characters of it.
  [[nodiscard]] const Mask& inside_at_most(int64_t num) const;
  // Begun inside a string: tokens that do not end it, or behind so many characters.
  [[nodiscard]] const Mask& inside_at_least(int64_t num) const;
  // Begun outside: tokens that open no string, or one with at most so many characters of it.
  [[nodiscard]] const Mask& outside_at_most(int64_t num) const;
  // Tokens that the masks above do not tell everything about.
  [[nodiscard]] const Mask& inside_exceptions() const { return inside_exceptions_; }
  [[nodiscard]] const Mask& outside_exceptions() const { return outside_exceptions_; }
  // The same inside an escape, where only what ends a string or is very long counts.
  [[nodiscard]] const Mask& escape_exceptions() const { return escape_exceptions_; }

  // Empty for added tokens.
  [[nodiscard]] std::string_view bytes(int32_t token_id) const;

 private:
  void add(int32_t token_id);

  const Tokenizer& tokenizer_;
  std::vector<Mask> inside_at_most_, inside_at_least_, outside_at_most_;
  Mask inside_exceptions_, outside_exceptions_, escape_exceptions_;
};

class LengthTracker {
 public:
  LengthTracker(std::shared_ptr<const LengthPlan> plan, std::shared_ptr<const TokenLengths> tokens);

  // Clears the bits of tokens that would break a limit.
  void narrow(std::span<uint32_t> mask);
  void accept(int32_t token_id);

 private:
  // Clears bits one by one, of those that `among` has, too.
  void try_each(std::span<uint32_t> mask, const TokenLengths::Mask* among);

  std::shared_ptr<const LengthPlan> plan_;
  std::shared_ptr<const TokenLengths> tokens_;
  JsonCursor cursor_;
  JsonCursor scratch_;
};

}  // namespace tandem
