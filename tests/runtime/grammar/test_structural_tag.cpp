// Structural tags: which texts they let through, and what is refused with its place.
#include "runtime/grammar/structural_tag.h"

#include <catch2/catch_test_macros.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/grammar/answer_grammar.h"
#include "tests/runtime/grammar/grammar_fixture.h"

namespace tandem::tests {
namespace {

using namespace std::string_literals;

using Tokens = TokenConstraint::Allowance::Tokens;

AnswerRules rules_of(const std::string& tag) {
  AnswerRules rules;
  rules.format = {.kind = AnswerFormat::Kind::kStructuralTag, .text = tag, .field = "tag"};
  return rules;
}

// "": the whole text; otherwise what of it was not let through, or "<end>".
std::string stuck(const std::string& tag, std::string_view text) {
  static GrammarCompiler compiler(byte_tokenizer(), kByteVocabSize);
  const auto grammar = compiler.compile(rules_of(tag));
  if (!grammar) return grammar.error().message;
  const auto constraint = (*grammar)->start();
  std::vector<uint32_t> mask((kByteVocabSize + 31) / 32);
  for (size_t idx = 0; idx < text.size(); ++idx) {
    const auto byte = static_cast<unsigned char>(text[idx]);
    const auto allowance = constraint->allow(mask);
    const bool fits = allowance.tokens == Tokens::kMasked && (mask[byte / 32] >> byte % 32 & 1u);
    if (!fits || !constraint->accept(byte)) return std::string(text.substr(idx));
  }
  return constraint->allow(mask).may_end ? "" : "<end>";
}

std::string problem(const std::string& tag) {
  const auto written = structural_tag(tag);
  return written ? "" : written.error().message;
}

std::string with_format(const std::string& format) { return R"({"format":)" + format + "}"; }

const std::string kSchema =
    R"({"type":"object","properties":{"city":{"enum":["Oslo","Rome"]}},"required":["city"]})";

TEST_CASE("text is free until a trigger, and then held to the schema of its tag", "[grammar]") {
  const std::string legacy =
      R"({"type":"structural_tag","structures":[{"begin":"<f=w>","schema":)" + kSchema +
      R"(,"end":"</f>"}],"triggers":["<f="]})";
  const std::string as_text =
      R"({"structures":[{"begin":"<f=w>","schema":"{\"const\":7}","end":"</f>"}],
          "triggers":["<f="]})";
  const std::string tags =
      R"([{"type":"tag","begin":"<f=w>","content":{"type":"json_schema","json_schema":)" + kSchema +
      R"(},"end":"</f>"}])";
  const std::string modern =
      with_format(R"({"type":"triggered_tags","triggers":["<f="],"tags":)" + tags + "}");
  for (const std::string& tag : {legacy, modern}) {
    CHECK(stuck(tag, "") == "");
    CHECK(stuck(tag, "any <text> {") == "");
    CHECK(stuck(tag, R"(so <f=w>{"city": "Rome"}</f> and <f=w>{"city": "Oslo"}</f>)") == "");
    CHECK(stuck(tag, R"(so <f=w>{"city": "Paris"}</f>)") == R"(Paris"}</f>)");
    CHECK(stuck(tag, "<f=x>") == "x>");
    CHECK(stuck(tag, R"(<f=w>{"city": "Rome"}<)") == "<end>");
  }
  CHECK(stuck(as_text, "<f=w>7</f>") == "");
  CHECK(stuck(as_text, "<f=w>8") == "8");
  std::string deep = R"({\"const\":7})";
  for (int idx = 0; idx < 40; ++idx) deep = R"({\"anyOf\":[)" + deep + "]}";
  const std::string deep_as_text = R"({"structures":[{"begin":"<f=w>","schema":")" + deep +
                                   R"(","end":"</f>"}],"triggers":["<f="]})";
  CHECK(stuck(deep_as_text, "<f=w>7</f>") == "");
  const std::string once =
      with_format(R"({"type":"triggered_tags","triggers":["<f="],"at_least_one":true,
                      "stop_after_first":true,"tags":)" +
                  tags + "}");
  CHECK(stuck(once, "") == "<end>");
  CHECK(stuck(once, R"(<f=w>{"city": "Rome"}</f>)") == "");
  CHECK(stuck(once, R"(<f=w>{"city": "Rome"}</f>more)") == "more");
}

TEST_CASE("formats are put together in sequences, choices and repeats", "[grammar]") {
  const std::string sequence = with_format(R"({"type":"sequence","elements":[
      {"type":"const_string","value":"a"},
      {"type":"or","elements":[{"type":"const_string","value":"b"},
                               {"type":"regex","pattern":"^c{2,3}$"}]},
      {"type":"optional","content":{"type":"const_string","value":"?"}},
      {"type":"plus","content":{"type":"const_string","value":"p"}},
      {"type":"repeat","min":1,"max":2,"content":{"type":"const_string","value":"r"}},
      {"type":"star","content":{"type":"const_string","value":"s"}},
      {"type":"grammar","grammar":"root ::= x\nx ::= \"x\" | \"y\" x"}]})");
  for (const char* text : {"abprx", "accc?pprrssyyx"}) CHECK(stuck(sequence, text) == "");
  CHECK(stuck(sequence, "acpr") == "pr");
  CHECK(stuck(sequence, "abprrr") == "r");
  CHECK(stuck(sequence, "abpr") == "<end>");
  const std::string list =
      with_format(R"({"type":"tags_with_separator","separator":", ","at_least_one":true,
      "tags":[{"begin":"<","content":{"type":"any_text","excludes":["!"]},"end":[">","/>"]}]})");
  CHECK(stuck(list, "<a b>, <c/>") == "");
  CHECK(stuck(list, "<a!>") == "!>");
  CHECK(stuck(list, "<a><b>") == "<b>");
  const std::string dispatch = with_format(R"({"type":"dispatch","loop":false,
      "rules":[["n=",{"type":"json_schema","json_schema":{"type":"integer"}}]]})");
  CHECK(stuck(dispatch, "let n=12") == "");
  CHECK(stuck(dispatch, "let n=x") == "x");
  const std::string short_text = with_format(
      R"({"type":"tag","begin":"<","content":{"type":"any_text","max_chars":3},"end":">"})");
  CHECK(stuck(short_text, "<abc>") == "");
  CHECK(stuck(short_text, "<abcd>") == "d>");
}

TEST_CASE("what a structural tag has that is not known or not enforced is refused with its place",
          "[grammar]") {
  const auto of_schema = [&](const std::string& extra) {
    return problem(with_format(R"({"type":"tag","begin":"<","end":">","content":
        {"type":"json_schema",)" +
                               extra + "}}"));
  };
  const std::string items =
      of_schema(R"("json_schema":{"properties":{"a":{"type":"array","uniqueItems":true}}})");
  CHECK(items.starts_with("format.content.json_schema: "));
  CHECK(items.find("uniqueItems") != std::string::npos);
  CHECK(of_schema(R"("json_schema":{"type":"string","maxLength":3})").find("maxLength") !=
        std::string::npos);
  CHECK(of_schema(R"("json_schema":{},"style":"qwen_xml")").starts_with("format.content.style: "));
  CHECK(of_schema(R"("json_schema":{},"any_order":true)").find("any_order") != std::string::npos);
  CHECK(of_schema(R"("json_schema":{},"excludes":["a"])").find("excludes") != std::string::npos);
  CHECK(of_schema(R"("json_schema":{},"colour":1)").starts_with("format.content.colour: "));
  CHECK(of_schema(R"("schema":{})") == "format.content: expected a JSON Schema as json_schema");
  CHECK(of_schema(R"("json_schema":{},"style":"json","any_order":false,"excludes":[],)"
                  R"("max_whitespace_cnt":null)") == "");

  CHECK(problem("[") == "expected a structural tag as JSON");
  CHECK(problem("[]").find("an object") != std::string::npos);
  CHECK(problem("{}").starts_with("format: "));
  CHECK(problem(R"({"format":{},"structures":[]})").starts_with("format: "));
  CHECK(problem(R"({"structures":[],"triggers":["a"]})").find("structures") != std::string::npos);
  CHECK(problem(R"({"structures":[{"begin":"a","schema":{},"end":"b"}],"triggers":[""]})")
            .find("triggers") != std::string::npos);
  CHECK(problem(R"({"structures":[{"begin":"a","schema":{"not":{}},"end":"b"}],"triggers":["a"]})")
            .starts_with("structures[0].schema: "));
  const std::string unknown = problem(with_format(R"({"type":"token","token":3})"));
  CHECK(unknown.starts_with("format.type: expected any_text"));
  CHECK(unknown.ends_with("got 'token'"));
  CHECK(problem(with_format(R"({"type":"qwen_xml_parameter","json_schema":{}})"))
            .ends_with("got 'qwen_xml_parameter'"));
  CHECK(problem(with_format(R"s({"type":"regex","pattern":"(?=a)b"})s"))
            .starts_with("format.pattern: "));
  CHECK(
      problem(with_format(R"({"type":"sequence","elements":[{"type":"any_text","max_chars":-1}]})"))
          .starts_with("format.elements[0].max_chars: "));
}

TEST_CASE("what would make a structural tag huge is refused, what XGrammar says is passed on",
          "[grammar]") {
  const std::string text = R"({"type":"const_string","value":"a"})";
  const auto repeat = [](const std::string& content) {
    return R"({"type":"repeat","min":1,"max":50,"content":)" + content + "}";
  };
  CHECK(problem(with_format(repeat(text))) == "");
  CHECK(problem(with_format(repeat(repeat(text)))).find("repeats") != std::string::npos);
  CHECK(problem(with_format(R"({"type":"grammar","grammar":"root ::= \"a\"{5000}"})"))
            .find("repeats") != std::string::npos);
  std::string deep = text;
  for (int level = 0; level < 40; ++level) deep = R"({"type":"optional","content":)" + deep + "}";
  CHECK(problem(with_format(deep)).find("nested too deeply") != std::string::npos);
  std::string many = text;
  for (int idx = 0; idx < 300; ++idx) many += "," + text;
  CHECK(problem(with_format(R"({"type":"or","elements":[)" + many + "]}")).find("256") !=
        std::string::npos);
  std::string words = R"("a")";
  for (int idx = 0; idx < 300; ++idx) words += R"(,"a")";
  CHECK(problem(with_format(R"({"type":"any_text","excludes":[)" + words + "]}"))
            .starts_with("format.excludes: "));
  // Text that can be divided in many ways.
  const std::string open = R"({"type":"regex","pattern":"[a-z]+"})";
  for (const std::string& content : {open, R"({"type":"any_text"})"s,
                                     R"({"type":"json_schema","json_schema":{"type":"integer"}})"s,
                                     R"({"type":"or","elements":[)" + text + "," + open + "]}"}) {
    const std::string repeated = problem(with_format(repeat(content)));
    CHECK(repeated.starts_with("format.content: "));
    CHECK(repeated.find("begin with a word") != std::string::npos);
  }
  const auto sequence = [](const std::string& list) {
    return with_format(R"({"type":"sequence","elements":[)" + list + "]}");
  };
  const std::string four = open + "," + open + "," + open + "," + open;
  CHECK(problem(sequence(four)) == "");
  CHECK(problem(sequence(four + "," + open)).starts_with("format.elements[4]: more than 4 "));
  CHECK(problem(with_format(R"({"type":"or","elements":[)" + four + "," + open + "]}")) == "");
  const std::string in_tag = R"({"type":"tag","begin":"<","end":">","content":)" + open + "}";
  CHECK(problem(sequence(four + "," + in_tag)) == "");
  // No trigger begins the tag.
  const std::string stray = stuck(with_format(R"({"type":"triggered_tags","triggers":["<b"],
          "tags":[{"begin":"<a","content":{"type":"any_text"},"end":">"}]})"),
                                  "x");
  CHECK(stray.starts_with("tag: "));
  CHECK(stray.find(".cc") == std::string::npos);  // nor any other place in a source
  CHECK(stray.find("trigger") != std::string::npos);
  CHECK(stray.find('\n') == std::string::npos);
  CHECK(stuck(with_format(R"({"type":"grammar","grammar":"nonsense"})"), "x").starts_with("tag: "));
}

}  // namespace
}  // namespace tandem::tests
