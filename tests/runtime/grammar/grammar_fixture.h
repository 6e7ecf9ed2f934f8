// A vocabulary of single bytes and K2's markers, and texts walked through grammars byte by byte.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/text_grammar.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem::tests {

// Ids 0..255 are the bytes; markers as in the published vocabulary's order.
const Tokenizer& byte_tokenizer();
inline constexpr int32_t kByteVocabSize = 512;

// The demo model's vocabulary, which lies in the repository.
const Tokenizer& demo_tokenizer();
inline constexpr int32_t kDemoVocabSize = 640;

// Nothing without $TANDEM_SHARED_DIR/model/tiktoken.model.
std::optional<Tokenizer> published_tokenizer();
inline constexpr int32_t kPublishedVocabSize = 163840;

// Whether the grammar (EBNF) has exactly this text.
bool derives(const std::string& ebnf, std::string_view text);

}  // namespace tandem::tests
