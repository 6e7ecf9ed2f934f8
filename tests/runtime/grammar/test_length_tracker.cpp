// Lengths of strings by whole tokens: the masks against a text followed byte by byte.
#include "runtime/grammar/length_tracker.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/json_schema.h"
#include "tests/runtime/grammar/grammar_fixture.h"

namespace tandem::tests {
namespace {

// Beside single bytes: tokens that cross the ends of strings in every way.
std::vector<std::string> crossing_tokens() {
  std::vector<std::string> tokens;
  const std::vector<std::string> pieces = {"a",    "\"",      "\\",      "\\\"", "\xC3\xA9",
                                           "\xA9", "\\ud83d", "\\ude00", "n",    "b\",",
                                           "\":",  "[",       "{\"",     "],",   " \""};
  for (const std::string& first : pieces) {
    for (const std::string& second : pieces) tokens.push_back(first + second);
  }
  for (const char* more :
       {"\"\"", "\":\"", "\":\"abc", "\", \"b\": \"", "abc\"}", ": \"abc",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"})
    tokens.emplace_back(more);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

TEST_CASE("a token may follow exactly when its bytes keep to the lengths", "[grammar]") {
  const Tokenizer tokenizer = small_tokenizer(crossing_tokens());
  const int32_t vocab_size = tokenizer.vocab_size();
  const auto token_lengths = std::make_shared<const TokenLengths>(tokenizer, vocab_size);
  const auto schema = json_schema_grammar(
      R"({"type":"object","properties":{"a":{"maxLength":3},"b":{"minLength":2,"maxLength":120},)"
      R"("c":{"type":"array","prefixItems":[{"minLength":1}],"items":{"maxLength":1}}},)"
      R"("additionalProperties":{"minLength":100}})",
      SchemaPolicy::kExact);
  REQUIRE(schema.ok());
  REQUIRE_FALSE(schema->lengths.empty());
  const auto plan = std::make_shared<const LengthPlan>(schema->lengths);
  TextGrammarCompiler compiler(tokenizer, vocab_size, {});
  const auto grammar = compiler.compile_ebnf(schema->ebnf);
  REQUIRE(grammar.ok());
  std::mt19937 random(1);
  const std::vector<std::string> openings = {"",
                                             "{",
                                             R"({"a": ")",
                                             R"({"b":"x)",
                                             std::string(R"({"b": ")").append(30, 'a'),
                                             R"({"c": [)",
                                             R"({"c": ["x", )",
                                             R"({"c": ["x")",
                                             std::string(R"({"d": ")").append(97, 'a'),
                                             R"({"a": "x", )",
                                             R"({"a")",
                                             R"({"a": "\)",
                                             R"({"b": "\ud83d)",
                                             R"({"b": "a\u00)"};
  std::vector<uint32_t> mask((static_cast<size_t>(vocab_size) + 31) / 32);
  int num_forbidden = 0;
  for (int round = 0; round < 280; ++round) {
    TextMatcher matcher(*grammar);
    LengthTracker tracker(plan, token_lengths);
    JsonCursor cursor(*plan);
    std::string text;
    const auto say = [&](int32_t id) {
      const std::string_view bytes = token_lengths->bytes(id);
      INFO(text << " then " << bytes);
      REQUIRE(matcher.accept(id));
      for (const char byte : bytes) REQUIRE(cursor.push(byte));
      tracker.accept(id);
      text += bytes;
    };
    for (const char byte : openings[static_cast<size_t>(round) % openings.size()])
      say(static_cast<int32_t>(static_cast<unsigned char>(byte)));
    for (int step = 0; step < 8 && !matcher.is_complete(); ++step) {
      matcher.fill(mask);
      const std::vector<uint32_t> in_grammar = mask;
      tracker.narrow(mask);
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < vocab_size - 256; ++id) {
        if ((in_grammar[id / 32] >> (id % 32) & 1u) == 0) continue;
        JsonCursor ahead = cursor;
        const std::string_view bytes = token_lengths->bytes(id);
        const bool fits =
            std::all_of(bytes.begin(), bytes.end(), [&](char byte) { return ahead.push(byte); });
        const bool is_set = (mask[id / 32] >> (id % 32) & 1u) != 0;
        INFO(text << " then " << bytes);
        CHECK(fits == is_set);
        num_forbidden += fits ? 0 : 1;
        if (fits) allowed.push_back(id);
      }
      REQUIRE_FALSE(allowed.empty());
      say(allowed[random() % allowed.size()]);
    }
  }
  CHECK(num_forbidden > 1000);
}

}  // namespace
}  // namespace tandem::tests
