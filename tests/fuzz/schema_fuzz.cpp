// Schemas and patterns of any bytes: a grammar that compiles, lets through only JSON that satisfies
// the schema and (a schema's) never ends in nothing, or an error in words; no crash, no hang.
#include <boost/json/parse.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/grammar/answer_grammar.h"
#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/schema_check.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/byte_vocabulary.h"

namespace tandem {
namespace {

constexpr int kMaxTokens = 200;

std::optional<boost::json::value> parse(std::string_view text) {
  boost::system::error_code code;
  boost::json::parse_options options;
  options.max_depth = 1024;
  boost::json::value value = boost::json::parse(text, code, {}, options);
  if (code) return std::nullopt;
  return value;
}

// Follows one path through the answer, chosen by the input; what is complete must satisfy `schema`.
void follow(const AnswerGrammar& grammar,
            std::string_view choices,
            const std::optional<boost::json::value>& schema) {
  const bool is_json = schema.has_value();
  using Tokens = TokenConstraint::Allowance::Tokens;
  const auto constraint = grammar.start();
  std::vector<uint32_t> mask((tests::kByteVocabSize + 31) / 32);
  std::string text;
  for (int idx = 0; idx < kMaxTokens; ++idx) {
    const auto allowance = constraint->allow(mask);
    if (allowance.may_end && is_json) {
      const auto value = parse(text);
      TANDEM_CHECK(value, "a complete answer that is no JSON");
      TANDEM_CHECK(!check_schema(*value, *schema, *schema).violation,
                   "a complete answer that breaks the schema");
    }
    TANDEM_CHECK(allowance.tokens != Tokens::kNone || allowance.may_end || !is_json, "a dead end");
    if (allowance.tokens != Tokens::kMasked) return;
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < 256; ++id) {
      if (mask[id / 32] >> (id % 32) & 1u) allowed.push_back(id);
    }
    if (allowed.empty()) return;  // only thinking could begin
    const auto choice = static_cast<unsigned char>(choices[idx % choices.size()]);
    const int32_t id = allowed[(choice + static_cast<unsigned>(idx) * 7) % allowed.size()];
    TANDEM_CHECK(constraint->accept(id), "an allowed token that is refused");
    text += static_cast<char>(id);
  }
}

}  // namespace
}  // namespace tandem

// The first byte says what the rest is: 'r' a pattern, 't' a structural tag, else a schema.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;  // NOLINT(google-build-using-namespace)
  if (size < 2 || size > 4096) return 0;
  static GrammarCompiler compiler(tests::byte_tokenizer(), tests::kByteVocabSize,
                                  {.num_threads = 1, .cache_size_bytes = 16 << 20});
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool is_schema = data[0] != 'r' && data[0] != 't';
  AnswerRules rules;
  rules.format = {.kind = data[0] == 'r'   ? AnswerFormat::Kind::kRegex
                          : data[0] == 't' ? AnswerFormat::Kind::kStructuralTag
                                           : AnswerFormat::Kind::kJsonSchema,
                  .text = text,
                  .field = "field"};
  const auto grammar = compiler.compile(rules);
  if (grammar) {
    follow(**grammar, text, is_schema ? parse(text) : std::nullopt);
  } else {
    TANDEM_CHECK(grammar.error().message.starts_with("field"), "an error that names the field");
  }
  if (is_schema) {
    const auto tool = compiler.compile({.tools = {{"f", text}}});
    TANDEM_CHECK(tool.ok(), "a tool is never refused for its schema");
    for (const char* arguments : {"{}", R"({"a":[1,"b",{"a":1}],"b":null})"})
      static_cast<void>((*tool)->find_violation("f", arguments));
  }
  return 0;
}
