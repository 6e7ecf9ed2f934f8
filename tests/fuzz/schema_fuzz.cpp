// Schemas and patterns of any bytes: a grammar that compiles, lets through JSON only and (a
// schema's) never ends in nothing, or an error in words; no crash, no hang.
#include <boost/json/parse.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/grammar/answer_grammar.h"
#include "runtime/grammar/json_schema.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/byte_vocabulary.h"

namespace tandem {
namespace {

constexpr int kMaxTokens = 200;

// Follows one path through the answer, chosen by the input; what is complete must be JSON.
void follow(const AnswerGrammar& grammar, std::string_view choices, bool is_json) {
  using Tokens = TokenConstraint::Allowance::Tokens;
  const auto constraint = grammar.start();
  std::vector<uint32_t> mask((tests::kByteVocabSize + 31) / 32);
  std::string text;
  for (int idx = 0; idx < kMaxTokens; ++idx) {
    const auto allowance = constraint->allow(mask);
    if (allowance.may_end && is_json) {
      boost::system::error_code code;
      boost::json::parse_options options;
      options.max_depth = 1024;
      static_cast<void>(boost::json::parse(text, code, {}, options));
      TANDEM_CHECK(!code, "a complete answer that is no JSON");
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

// The first byte says what the rest is: 'r' a pattern, else a schema.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;  // NOLINT(google-build-using-namespace)
  if (size < 2 || size > 4096) return 0;
  static GrammarCompiler compiler(tests::byte_tokenizer(), tests::kByteVocabSize,
                                  {.num_threads = 1, .cache_size_bytes = 16 << 20});
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool is_pattern = data[0] == 'r';
  AnswerRules rules;
  rules.format = {.kind = is_pattern ? AnswerFormat::Kind::kRegex : AnswerFormat::Kind::kJsonSchema,
                  .text = text,
                  .field = "field"};
  const auto grammar = compiler.compile(rules);
  if (grammar) {
    follow(**grammar, text, !is_pattern);
  } else {
    TANDEM_CHECK(grammar.error().message.starts_with("field"), "an error that names the field");
  }
  if (!is_pattern) {
    const auto tool = compiler.compile({.tools = {{"f", text}}});
    TANDEM_CHECK(tool.ok(), "a tool is never refused for its schema");
  }
  return 0;
}
