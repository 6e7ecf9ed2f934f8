// Stop strings and patterns in the content of an answer: what of it can be shown, and where it
// ends.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/stop_pattern.h"

namespace tandem {

struct StopRules {
  std::vector<std::string> strings{};
  std::vector<std::shared_ptr<const StopPattern>> patterns{};
  bool include_match = false;  // show what matched
};

// The match is the one that is complete first, character by character, and of those that end
// together the longest, so that it does not depend on how the text is cut into tokens. Text in
// which a match may have begun is held back: whatever a string needs, and 1,024 bytes for a
// pattern: longer matches are cut at what has been shown.
class StopScanner {
 public:
  explicit StopScanner(StopRules rules);

  // Text that comes next (whole UTF-8) to text that can be shown now.
  std::string push(std::string_view text);
  // What is held back: nothing follows that could complete a match.
  std::string flush();

  // Has come and was not shown: held back, or behind the end.
  [[nodiscard]] size_t num_hidden_bytes() const { return text_.size() - held_begin_; }
  [[nodiscard]] bool stopped() const { return matched_.has_value() || !failure_.empty(); }
  // The string or the pattern that was met.
  [[nodiscard]] const std::optional<std::string>& matched() const { return matched_; }
  // A pattern that cannot be searched for in this text; "" when all is well.
  [[nodiscard]] const std::string& failure() const { return failure_; }

 private:
  struct Match {
    StopSearch::Span span;
    const std::string* stop = nullptr;  // null: none
  };

  [[nodiscard]] Match find_string() const;
  void find_patterns(size_t num_seen, Match& match);
  [[nodiscard]] size_t shown_end();
  void fail(const StopSearch& search);
  std::string show_until(size_t end);

  StopRules rules_;
  std::vector<StopSearch> searches_;  // a pattern each
  std::string text_;                  // the end of what was shown, then what is held back
  size_t held_begin_ = 0;
  std::optional<std::string> matched_;
  std::string failure_;
};

}  // namespace tandem
