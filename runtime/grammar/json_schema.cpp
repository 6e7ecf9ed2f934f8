#include "runtime/grammar/json_schema.h"

#include "runtime/grammar/schema_writer.h"
#include "runtime/tokenizer/nested_json.h"

namespace tandem {
namespace {

constexpr size_t kMaxSchemaBytes = 1 << 20;

}  // namespace

Result<SchemaGrammar, GrammarError> json_schema_grammar(std::string_view schema_json,
                                                        SchemaPolicy policy) {
  const auto failed = [&](std::string message) -> Result<SchemaGrammar, GrammarError> {
    if (policy == SchemaPolicy::kExact) return GrammarError{std::move(message)};
    return SchemaGrammar{json_object_grammar(), {}, {std::move(message)}};
  };
  if (schema_json.size() > kMaxSchemaBytes) return failed("the schema is too large for a grammar");
  const auto root = parse_nested_json(schema_json, kMaxRequestDepth);
  if (!root) return failed("the schema is no JSON");
  try {
    if (auto grammar = SchemaWriter(*root, policy).write()) return *std::move(grammar);
    return failed("no value satisfies the schema");
  } catch (SchemaRefusal& refusal) {
    return failed(std::move(refusal.message));
  }
}

}  // namespace tandem
