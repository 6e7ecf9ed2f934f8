// Script files of the scripted server; README.md says what they hold.
#pragma once

#include <string_view>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/dialogue_model.h"

namespace tandem::tests {

// Throws ConfigError naming the entry, the key, the value and what was expected.
std::vector<ScriptedAnswer> parse_script(std::string_view text, const Tokenizer& tokenizer);

}  // namespace tandem::tests
