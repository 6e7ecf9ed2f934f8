// ECMAScript patterns searched in texts that are there already; what a grammar makes of a pattern
// is in regex.h.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

namespace tandem {

class PatternSearch {
 public:
  explicit PatternSearch(std::string_view pattern);
  ~PatternSearch();
  PatternSearch(const PatternSearch&) = delete;
  PatternSearch& operator=(const PatternSearch&) = delete;

  // Nothing where it cannot be told: the pattern is none, the text no UTF-8, the search too long.
  [[nodiscard]] std::optional<bool> matches_in(std::string_view text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
