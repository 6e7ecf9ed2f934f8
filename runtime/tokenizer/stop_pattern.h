// A regular expression that ends an answer (SGLang's stop_regex), searched for in text that grows.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace tandem {

// Immutable, to be shared by all choices of a request.
class StopPattern {
 public:
  struct Problem {
    std::string message;  // PCRE2's, with the offset
  };
  // PCRE2's syntax over characters, \w and the like by Unicode. A problem, too: a pattern that
  // matches an empty text, which would end every answer at once.
  static Result<std::shared_ptr<const StopPattern>, Problem> compile(std::string_view pattern);

  ~StopPattern();
  StopPattern(const StopPattern&) = delete;
  StopPattern& operator=(const StopPattern&) = delete;

  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  friend class StopSearch;
  struct Impl;
  StopPattern(std::string text, std::unique_ptr<Impl> impl);

  std::string text_;
  std::unique_ptr<Impl> impl_;
};

// What searching for one pattern needs to write to, and how much it may cost: steps beyond a few
// are paid from an allowance that grows with the text, so that no pattern holds up others.
class StopSearch {
 public:
  enum class Outcome { kNone, kFound, kTooCostly };
  struct Span {
    size_t begin = 0;
    size_t end = 0;
  };

  explicit StopSearch(std::shared_ptr<const StopPattern> pattern);
  ~StopSearch();
  StopSearch(StopSearch&&) noexcept;
  StopSearch& operator=(StopSearch&&) noexcept;

  // Once a token.
  void earn();
  // The first match of `text` (UTF-8) from `begin` on; what is ahead of it is seen by look-behinds.
  Outcome find(std::string_view text, size_t begin, Span& found);
  // Where the first match could begin that `text` ends too early for; its size when there is none.
  Outcome find_beginning(std::string_view text, size_t begin, size_t& found);
  [[nodiscard]] const std::string& pattern() const { return pattern_->text(); }

 private:
  struct Impl;
  int match(std::string_view text, size_t begin, uint32_t options);

  std::shared_ptr<const StopPattern> pattern_;
  std::unique_ptr<Impl> impl_;
  int64_t allowance_steps_;
};

}  // namespace tandem
