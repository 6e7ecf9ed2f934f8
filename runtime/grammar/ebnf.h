// Pieces of grammar text for XGrammar: literals, classes of characters, regular expressions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tandem {

inline constexpr uint32_t kLastCodePoint = 0x10FFFF;

// Of the values that a grammar lists (choices, enum, const), all together and each. The time to
// compile grows with the product of all and of what two have in common at an end: up to a second.
inline constexpr size_t kMaxListedBytes = 32 << 10;
inline constexpr size_t kMaxListedValueBytes = 1 << 10;

// Unicode scalar values: surrogates are never members.
class CodePointSet {
 public:
  CodePointSet() = default;
  CodePointSet(std::initializer_list<std::pair<uint32_t, uint32_t>> ranges);

  void add(uint32_t first, uint32_t last);
  void add(const CodePointSet& other);
  [[nodiscard]] CodePointSet complement() const;
  [[nodiscard]] CodePointSet intersection(const CodePointSet& other) const;
  [[nodiscard]] CodePointSet without(const CodePointSet& other) const {
    return intersection(other.complement());
  }
  [[nodiscard]] bool contains(uint32_t code_point) const;
  [[nodiscard]] bool empty() const { return ranges_.empty(); }
  // Ascending, disjoint, inclusive.
  [[nodiscard]] const std::vector<std::pair<uint32_t, uint32_t>>& ranges() const { return ranges_; }

 private:
  std::vector<std::pair<uint32_t, uint32_t>> ranges_;
};

std::u32string code_points(std::string_view utf8);

// What may stand unescaped in a JSON string.
const CodePointSet& plain_json_characters();

// EBNF: `text` (UTF-8) as it is; and what the regular expression matches, as one automaton. Within
// an automaton nothing is ambiguous: text of any length costs no more per token than short text,
// which rules that refer to themselves do not give.
std::string ebnf_literal(std::string_view text);
std::string ebnf_regex(std::string_view regex);

// What is wrong with a grammar that somebody else has written: too large, or made so by its
// repeats.
std::optional<std::string> grammar_problem(std::string_view ebnf);

// XGrammar's regular expressions, which are no search and in which (|x) stands for x? (regex.cpp
// says why): one character of `set` (not empty); as it
// stands in a JSON string, plain or escaped where JSON demands it (control characters without a
// short escape are left out), "" when nothing is left; `text` as it is.
std::string regex_class(const CodePointSet& set);
std::string regex_json_class(const CodePointSet& set);
std::string regex_literal(std::string_view text);

// `text` as the inside of a JSON string, with the escapes that JSON demands and no others.
std::string json_string_body(std::string_view text);

}  // namespace tandem
