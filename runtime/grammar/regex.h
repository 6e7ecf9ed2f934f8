// ECMAScript regular expressions (what JSON Schema's `pattern` and guided_regex hold), checked and
// rewritten for XGrammar. Only what can be said exactly: no look-around, back references, word
// boundaries, Unicode properties or anchors in the middle.
#pragma once

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

// For ebnf_regex(); or what the pattern has that cannot be done ("look-ahead at 3").
Result<std::string, GrammarError> rewrite_regex(std::string_view pattern, RegexUse use);

}  // namespace tandem
