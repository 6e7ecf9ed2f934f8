// Structural tags: text whose parts, between words that open and close them, are held to formats of
// their own (response_format of vLLM and SGLang; the format of XGrammar 0.2.8).
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/grammar/grammar_error.h"

namespace tandem {

// A tag for XGrammar's compiler, from {"format": {...}} or the older form {"structures": [{"begin",
// "schema", "end"}], "triggers": [...]}. Schemas and patterns inside have become grammars of ours,
// so that they are enforced, or refused, as in any other format; what XGrammar would pass over
// (keys that it does not know) is an error. The error begins with the path: "format.content: ...".
Result<std::string, GrammarError> structural_tag(std::string_view tag_json);

}  // namespace tandem
