// ECMAScript regular expressions (what JSON Schema's `pattern` and guided_regex hold), checked and
// rewritten for XGrammar. Only what can be said exactly: no look-around, back references, word
// boundaries, Unicode properties or anchors in the middle.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/grammar/grammar_error.h"

namespace tandem {

enum class RegexUse {
  kWholeText,         // the whole text matches; anchors at the ends say nothing more
  kInsideJsonString,  // a JSON string contains a match; the result is what stands between quotes
};

// One character of a JSON string, escaped or not; an escaped surrogate only as half of a pair.
const std::string& json_character_regex();

// How long the texts that a whole pattern describes can be, in characters.
struct PatternLengths {
  int64_t least = 0;
  std::optional<int64_t> most{};  // none: any length
  // A text that has so many characters may end wherever it is, and a shorter one can still be ended
  // with so many; none: not known.
  std::optional<int64_t> ends_from{};
};

// The same pattern as in rewrite_regex(); inside a JSON string, text around it counts.
Result<PatternLengths, GrammarError> pattern_lengths(std::string_view pattern, RegexUse use);

// For ebnf_regex(); or what the pattern has that cannot be done ("look-ahead at 3").
Result<std::string, GrammarError> rewrite_regex(std::string_view pattern, RegexUse use);

}  // namespace tandem
