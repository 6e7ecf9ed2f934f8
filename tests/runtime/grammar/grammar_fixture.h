// A vocabulary of single bytes and K2's markers, and texts walked through grammars byte by byte.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/text_grammar.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/byte_vocabulary.h"

namespace tandem::tests {

// The demo model's vocabulary, which lies in the repository.
const Tokenizer& demo_tokenizer();
inline constexpr int32_t kDemoVocabSize = 640;

// Nothing without $TANDEM_SHARED_DIR/model/tiktoken.model.
std::optional<Tokenizer> published_tokenizer();
inline constexpr int32_t kPublishedVocabSize = 163840;

// Whether the grammar has exactly this text, whose strings are as long as it says.
bool derives(const SchemaGrammar& grammar, std::string_view text);

}  // namespace tandem::tests
