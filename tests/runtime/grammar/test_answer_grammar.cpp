// Thinking, text, formats and calls of an answer, token by token.
#include "runtime/grammar/answer_grammar.h"

#include <catch2/catch_test_macros.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tests/runtime/grammar/grammar_fixture.h"

namespace tandem::tests {
namespace {

using Tokens = TokenConstraint::Allowance::Tokens;

const ToolDeclaration kWeather{
    "get_weather",
    R"({"type":"object","properties":{"city":{"enum":["Oslo","Rome"]}},"required":["city"]})"};
const ToolDeclaration kTime{"get-time.now", R"({"type":"object","properties":{}})"};
constexpr std::string_view kOslo = R"({"city": "Oslo"})";

GrammarCompiler& compiler() {
  static GrammarCompiler compiler(byte_tokenizer(), kByteVocabSize);
  return compiler;
}

// One answer being written.
class Answer {
 public:
  explicit Answer(const AnswerRules& rules) {
    auto grammar = compiler().compile(rules);
    if (!grammar) FAIL(grammar.error().message);
    constraint_ = (*grammar)->start();
  }

  TokenConstraint::Allowance allow() { return constraint_->allow(mask_); }
  bool allows(int32_t token_id) {
    const auto allowance = allow();
    if (allowance.tokens != Tokens::kMasked) return allowance.tokens == Tokens::kAll;
    return (mask_[token_id / 32] >> (token_id % 32) & 1u) != 0;
  }
  bool allows(std::string_view text) { return allows(static_cast<unsigned char>(text[0])); }
  // False at the first token that is not allowed.
  bool say(int32_t token_id) { return allows(token_id) && constraint_->accept(token_id); }
  bool say(std::string_view text) {
    for (const char byte : text) {
      if (!say(static_cast<int32_t>(static_cast<unsigned char>(byte)))) return false;
    }
    return true;
  }
  bool call(std::string_view header, std::string_view arguments) {
    return say(specials_.tool_call_begin) && say(header) &&
           say(specials_.tool_call_argument_begin) && say(arguments) &&
           say(specials_.tool_call_end);
  }
  bool is_done() {
    const auto allowance = allow();
    return allowance.tokens == Tokens::kNone && allowance.may_end;
  }
  int num_allowed() {
    const auto allowance = allow();
    if (allowance.tokens != Tokens::kMasked) return allowance.tokens == Tokens::kAll ? 512 : 0;
    int num = 0;
    for (const uint32_t word : mask_) num += __builtin_popcount(word);
    return num;
  }
  [[nodiscard]] std::string feature() const { return constraint_->feature(); }

 private:
  const SpecialTokens& specials_ = byte_tokenizer().specials();
  std::unique_ptr<TokenConstraint> constraint_;
  std::vector<uint32_t> mask_ = std::vector<uint32_t>((kByteVocabSize + 31) / 32);
};

const SpecialTokens& markers() { return byte_tokenizer().specials(); }

TEST_CASE("free text, thinking and its markers stay untouched while tools are declared",
          "[grammar]") {
  Answer answer({.tools = {kWeather}});
  CHECK(answer.allow().tokens == Tokens::kAll);
  CHECK(answer.allow().may_end);
  CHECK(answer.say(markers().think_begin));
  CHECK(answer.say("free text {"));
  CHECK(answer.allow().tokens == Tokens::kAll);
  CHECK(answer.say(markers().think_end));
  CHECK(answer.say("more"));
  CHECK(answer.allow().tokens == Tokens::kAll);
  CHECK(answer.allow().may_end);
}

TEST_CASE("a section holds calls of declared functions with valid arguments and nothing else",
          "[grammar]") {
  Answer answer({.tools = {kWeather, kTime}});
  CHECK(answer.say("text"));
  CHECK(answer.say(markers().tool_calls_section_begin));
  CHECK(answer.num_allowed() == 1);  // a call, not even the end
  CHECK_FALSE(answer.allow().may_end);
  CHECK(answer.say(markers().tool_call_begin));
  CHECK_FALSE(answer.allows("g"));
  CHECK(answer.say("functions.get"));
  CHECK(answer.allows("_"));
  CHECK(answer.allows("-"));
  CHECK_FALSE(answer.allows("x"));
  CHECK(answer.say("_weather:12"));
  CHECK(answer.say(markers().tool_call_argument_begin));
  CHECK_FALSE(answer.allows(markers().tool_call_end));
  CHECK(answer.say(R"({"city": ")"));
  CHECK_FALSE(answer.allows("P"));
  CHECK(answer.say(R"(Rome"})"));
  CHECK(answer.num_allowed() == 1);
  CHECK(answer.say(markers().tool_call_end));
  CHECK(answer.num_allowed() == 2);
  CHECK(answer.call("functions.get-time.now:13", "{}"));
  CHECK(answer.say(markers().tool_calls_section_end));
  CHECK(answer.allow().tokens == Tokens::kAll);
}

TEST_CASE("the index of a call has at most four digits", "[grammar]") {
  Answer answer({.tools = {kWeather}});
  CHECK(answer.say(markers().tool_calls_section_begin));
  CHECK(answer.say(markers().tool_call_begin));
  CHECK(answer.say("functions.get_weather:1234"));
  CHECK_FALSE(answer.allows("5"));
  CHECK(answer.allows(markers().tool_call_argument_begin));
}

TEST_CASE("a section or a bare call ends the thinking", "[grammar]") {
  Answer section({.tools = {kWeather}, .starts_in_reasoning = true});
  CHECK(section.say("hm"));
  CHECK(section.say(markers().tool_calls_section_begin));
  CHECK(section.call("functions.get_weather:0", kOslo));
  Answer bare({.tools = {kWeather}});
  CHECK(bare.say(markers().think_begin));
  CHECK(bare.call("functions.get_weather:0", kOslo));
  CHECK(bare.allow().tokens == Tokens::kAll);
  CHECK(bare.call("functions.get_weather:1", kOslo));
}

TEST_CASE("a required call comes directly behind the thinking", "[grammar]") {
  Answer answer({.tools = {kWeather}, .call_required = true});
  CHECK(answer.num_allowed() == 2);  // <think> or a section
  CHECK_FALSE(answer.allow().may_end);
  CHECK(answer.say(markers().think_begin));
  CHECK(answer.say("which city?"));
  CHECK_FALSE(answer.allow().may_end);
  CHECK(answer.say(markers().think_end));
  CHECK(answer.num_allowed() == 1);
  CHECK(answer.say(markers().tool_calls_section_begin));
  CHECK(answer.call("functions.get_weather:0", kOslo));
  CHECK(answer.call("functions.get_weather:1", kOslo));
  CHECK(answer.say(markers().tool_calls_section_end));
  CHECK(answer.is_done());
}

TEST_CASE("max_calls ends the section, and no other begins", "[grammar]") {
  Answer answer({.tools = {kWeather}, .max_calls = 1});
  CHECK(answer.say(markers().tool_calls_section_begin));
  CHECK(answer.call("functions.get_weather:0", kOslo));
  CHECK(answer.num_allowed() == 1);
  CHECK(answer.say(markers().tool_calls_section_end));
  CHECK(answer.is_done());
  Answer bare({.tools = {kWeather}, .max_calls = 1});
  CHECK(bare.call("functions.get_weather:0", kOslo));
  CHECK(bare.allows("x"));
  CHECK(bare.allow().may_end);
  CHECK_FALSE(bare.allows(markers().tool_call_begin));
  CHECK_FALSE(bare.allows(markers().tool_calls_section_begin));
}

TEST_CASE("a format holds behind the thinking and ends the answer", "[grammar]") {
  const AnswerFormat format{.kind = AnswerFormat::Kind::kJsonSchema,
                            .text = kWeather.parameters_json,
                            .field = "response_format"};
  Answer answer({.format = format});
  CHECK(answer.num_allowed() == 2);  // <think> or {
  CHECK(answer.say(markers().think_begin));
  CHECK(answer.say("any text at all"));
  CHECK_FALSE(answer.allow().may_end);
  CHECK(answer.say(markers().think_end));
  CHECK(answer.num_allowed() == 1);
  CHECK_FALSE(answer.allow().may_end);
  CHECK(answer.say(R"({"city":"Oslo"})"));
  CHECK(answer.is_done());
  CHECK(answer.feature() == "response_format");
  Answer plain({.format = format, .may_think = false});
  CHECK(plain.num_allowed() == 1);  // {
  // With tools beside it the model may call instead.
  Answer either({.tools = {kTime}, .format = format});
  CHECK(either.say(markers().tool_calls_section_begin));
  CHECK(either.call("functions.get-time.now:0", "{}"));
  CHECK(either.say(markers().tool_calls_section_end));
  CHECK(either.is_done());
}

TEST_CASE("patterns, choices and grammars", "[grammar]") {
  using Kind = AnswerFormat::Kind;
  Answer regex({.format = AnswerFormat{.kind = Kind::kRegex, .text = "^[0-9]{2}(a|b)?$"}});
  CHECK(regex.say("42"));
  CHECK(regex.allow().may_end);
  CHECK(regex.num_allowed() == 2);
  CHECK(regex.say("a"));
  CHECK(regex.is_done());
  Answer choice({.format = AnswerFormat{.kind = Kind::kChoice, .choices = {"yes", "no", "\"\n"}}});
  CHECK(choice.num_allowed() == 4);  // y n " <think>
  CHECK(choice.say("\"\n"));
  CHECK(choice.is_done());
  Answer ebnf({.format = AnswerFormat{.kind = Kind::kGrammar, .text = "root ::= \"a\"+ \"b\""}});
  CHECK(ebnf.say("aab"));
  CHECK(ebnf.is_done());
  Answer lark({.format = AnswerFormat{.kind = Kind::kGrammar, .text = "start: \"x\" /[0-9]/\n"}});
  CHECK(lark.say("x7"));
  CHECK(lark.is_done());
  Answer object({.format = AnswerFormat{}});
  CHECK(object.num_allowed() == 2);
  CHECK(object.say(R"({"a": [1, {"b": null}]})"));
  CHECK(object.is_done());
}

TEST_CASE("repeats have both their limits, also where they are written in pieces", "[grammar]") {
  struct Case {
    std::string pattern;
    int least, most;
  };
  const std::vector<Case> cases = {
      {"a{128}", 128, 128},    {"a{129}", 129, 129},       {"a{1,128}", 1, 128},
      {"a{0,129}", 0, 129},    {"a{127,300}", 127, 300},   {"a{128,129}", 128, 129},
      {"a{1024}", 1024, 1024}, {"a{200,1024}", 200, 1024}, {"(aa?){129,130}", 129, 260}};
  for (const auto& [pattern, least, most] : cases) {
    INFO(pattern);
    Answer answer({.format = AnswerFormat{.kind = AnswerFormat::Kind::kRegex, .text = pattern},
                   .may_think = false});
    bool is_right = true;
    for (int length = 0; length <= most && is_right; ++length) {
      is_right =
          answer.allow().may_end == (length >= least) && answer.allows("a") == (length < most);
      if (length < most) is_right = is_right && answer.say("a");
      if (!is_right) UNSCOPED_INFO("length " << length);
    }
    CHECK(is_right);
  }
  Answer open({.format = AnswerFormat{.kind = AnswerFormat::Kind::kRegex, .text = "a{200,}"}});
  CHECK(open.say(std::string(199, 'a')));
  CHECK_FALSE(open.allow().may_end);
  CHECK(open.say(std::string(200, 'a')));
  CHECK(open.allow().may_end);
}

TEST_CASE("a spent thinking budget forces </think>", "[grammar]") {
  Answer answer({.thinking_budget = 3});
  CHECK(answer.say(markers().think_begin));
  CHECK(answer.say("abc"));
  CHECK(answer.num_allowed() == 1);
  CHECK_FALSE(answer.allow().may_end);
  CHECK(answer.say(markers().think_end));
  CHECK(answer.allow().tokens == Tokens::kAll);
  Answer none({.starts_in_reasoning = true, .thinking_budget = 0});
  CHECK(none.num_allowed() == 1);
  CHECK(none.say(markers().think_end));
}

TEST_CASE("what cannot be compiled is an error that names the field", "[grammar]") {
  using Kind = AnswerFormat::Kind;
  const auto message = [](AnswerFormat format) {
    format.field = "the_field";
    const auto grammar = compiler().compile({.format = format});
    REQUIRE_FALSE(grammar.ok());
    CHECK(grammar.error().message.starts_with("the_field: "));
    CHECK(grammar.error().message != "the_field: ");
    return grammar.error().message;
  };
  CHECK(message({.kind = Kind::kJsonSchema, .text = R"({"properties":{"a":{"not":{}}}})"})
            .find("properties.a: the keyword 'not'") != std::string::npos);
  message({.kind = Kind::kRegex, .text = "a(?!b)"});
  message({.kind = Kind::kRegex, .text = "(a{1000}){1000}"});
  message({.kind = Kind::kRegex, .text = "(.x){200}"});
  message({.kind = Kind::kChoice});
  std::vector<std::string> choices(32, std::string(1024, 'a'));
  CHECK(
      compiler().compile({.format = AnswerFormat{.kind = Kind::kChoice, .choices = choices}}).ok());
  choices.emplace_back("b");
  CHECK(message({.kind = Kind::kChoice, .choices = choices})
            .find("1024 bytes each, 32768 in all, got 1024 and 32769") != std::string::npos);
  message({.kind = Kind::kChoice, .choices = {choices[0] + "a"}});
  message({.kind = Kind::kGrammar, .text = "root ::= missing"});
  message({.kind = Kind::kGrammar, .text = "root ::= \"a\"{100000}"});
  message({.kind = Kind::kGrammar, .text = R"(root ::= Regex("a{129}"))"});
  message({.kind = Kind::kGrammar, .text = "garbage"});
}

TEST_CASE("a tool is never refused for its schema", "[grammar]") {
  const std::vector<std::string> schemas = {
      "",
      "{}",
      "[]",
      "true",
      "nonsense",
      R"({"type":"str"})",
      R"({"type":"object","$ref":"x"})",
      R"s({"type":"object","properties":{"a":{"type":"string","pattern":"(?=x)"}}})s"};
  for (const std::string& schema : schemas) {
    INFO(schema);
    Answer answer({.tools = {{"f", schema}}});
    CHECK(answer.say(markers().tool_calls_section_begin));
    CHECK(answer.call("functions.f:0", "{}"));
  }
}

}  // namespace
}  // namespace tandem::tests
