// A JSON Schema as a grammar of the JSON texts that it allows (draft 2020-12, and what draft-07
// has beside it).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/grammar/grammar_error.h"
#include "runtime/grammar/length_plan.h"

namespace tandem {

enum class SchemaPolicy {
  kExact,      // what a grammar cannot enforce is an error that names the keyword and where it is
  kArguments,  // ... is left out and listed, never an error; the value is an object in any case
};

struct SchemaGrammar {
  std::string ebnf;                     // its rule `root` is the value
  LengthPlan lengths;                   // what the rules leave out of strings' lengths
  std::vector<std::string> unenforced;  // "properties.tags: uniqueItems", kArguments only
};

// Every text of the grammar whose strings keep to `lengths` is valid JSON and satisfies the schema,
// but for `unenforced`; and such a text can be ended wherever it is. The
// grammar says less than the schema allows where that is how models write: undeclared properties
// only where additionalProperties (or a schema without properties) asks for them, white space
// after ':' and ',' and around members only, integers of at most 18 digits, no lone surrogates.
Result<SchemaGrammar, GrammarError> json_schema_grammar(std::string_view schema_json,
                                                        SchemaPolicy policy);

// Keywords that no grammar enforces, whatever they say. Others are in part: multipleOf, oneOf, ...
std::span<const std::string_view> unenforced_keywords();

// Any JSON object.
std::string json_object_grammar();

}  // namespace tandem
