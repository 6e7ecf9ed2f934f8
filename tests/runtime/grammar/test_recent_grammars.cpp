// Grammars that are there already, and how many of them are kept.
#include "runtime/grammar/recent_grammars.h"

#include <catch2/catch_test_macros.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/runtime/grammar/grammar_fixture.h"

namespace tandem::tests {
namespace {

AnswerRules choice_rules(const std::string& choice) {
  AnswerRules rules;
  rules.format = AnswerFormat{
      .kind = AnswerFormat::Kind::kChoice, .choices = {choice}, .field = "guided_choice"};
  return rules;
}

TEST_CASE("what was compiled is found, by all of its rules", "[grammar]") {
  GrammarCompiler compiler(byte_tokenizer(), kByteVocabSize);
  AnswerRules rules = choice_rules("yes");
  rules.tools = {{"f", R"({"type":"object"})"}};
  CHECK(compiler.find(rules) == nullptr);
  const auto compiled = compiler.compile(rules);
  REQUIRE(compiled);
  CHECK(compiler.find(rules) == *compiled);
  for (const auto& change : std::vector<void (*)(AnswerRules&)>{
           [](AnswerRules& other) { other.format->choices = {"no"}; },
           [](AnswerRules& other) { other.tools[0].parameters_json = "{}"; },
           [](AnswerRules& other) { other.tools[0].is_strict = true; },
           [](AnswerRules& other) { other.thinking_budget = 9; }}) {
    AnswerRules other = rules;
    change(other);
    CHECK(compiler.find(other) == nullptr);
  }
}

TEST_CASE("rules without a text are a grammar at once, failures are none", "[grammar]") {
  GrammarCompiler compiler(byte_tokenizer(), kByteVocabSize);
  AnswerRules budget;
  budget.thinking_budget = 3;
  CHECK(compiler.find(budget) != nullptr);
  const AnswerRules wrong = choice_rules(std::string(1 << 20, 'a'));
  CHECK_FALSE(compiler.compile(wrong));
  CHECK(compiler.find(wrong) == nullptr);
}

TEST_CASE("grammars beyond the capacity go, least recently used first", "[grammar]") {
  GrammarCompiler compiler(byte_tokenizer(), kByteVocabSize);
  const auto compiled = compiler.compile(choice_rules("yes"));
  REQUIRE(compiled);
  RecentGrammars recent(10'000);
  recent.add(choice_rules("a"), *compiled, 4'000);
  recent.add(choice_rules("b"), *compiled, 4'000);
  CHECK(recent.find(choice_rules("a")) == *compiled);
  recent.add(choice_rules("c"), *compiled, 4'000);
  CHECK(recent.find(choice_rules("a")) == *compiled);
  CHECK(recent.find(choice_rules("b")) == nullptr);
  CHECK(recent.find(choice_rules("c")) == *compiled);
  SECTION("one that is too large by itself") {
    recent.add(choice_rules("d"), *compiled, 10'000);
    CHECK(recent.find(choice_rules("d")) == nullptr);
  }
  SECTION("the rules count, too") {
    recent.add(choice_rules(std::string(1'500, 'd')), *compiled, 0);
    CHECK(recent.find(choice_rules("a")) == nullptr);
  }
}

}  // namespace
}  // namespace tandem::tests
