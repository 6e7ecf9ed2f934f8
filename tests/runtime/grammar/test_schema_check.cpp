// Values against schemas, keyword by keyword: what is said of calls that no grammar could hold.
#include "runtime/grammar/schema_check.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/answer_grammar.h"
#include "runtime/grammar/json_schema.h"
#include "tests/runtime/grammar/grammar_fixture.h"
#include "tests/runtime/grammar/random_schema.h"
#include "tests/runtime/grammar/schema_validator.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

SchemaVerdict check(const std::string& value, const std::string& schema) {
  const json::value root = json::parse(schema);
  return check_schema(json::parse(value), root, root);
}

struct Case {
  std::string schema;
  std::vector<std::string> good;
  std::vector<std::string> bad;
};

void check(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    INFO(one.schema);
    for (const std::string& value : one.good) {
      INFO(value);
      const SchemaVerdict verdict = check(value, one.schema);
      CHECK_FALSE(verdict.violation);
      CHECK(verdict.is_complete);
    }
    for (const std::string& value : one.bad) {
      INFO(value);
      CHECK(check(value, one.schema).violation);
    }
  }
}

TEST_CASE("keywords that no grammar enforces are checked", "[grammar]") {
  check({{R"({"uniqueItems":true})",
          {"[1,2]", R"(["1",1])", R"([{"a":1},{"a":2}])", "[9007199254740993,9007199254740992]"},
          {"[1,1.0]", R"([{"a":1,"b":2},{"b":2,"a":1}])", "[[],[]]"}},
         {R"({"multipleOf":0.5})", {"1e308"}, {"1.25"}},
         {R"({"uniqueItems":false})", {"[1,1]"}, {}},
         {R"({"contains":{"type":"null"}})", {"[1,null]", "{}"}, {"[1]", "[]"}},
         {R"({"contains":{"const":1},"minContains":2,"maxContains":3})",
          {"[1,1]", "[1,1,1,2]"},
          {"[1,2]", "[1,1,1,1]"}},
         {R"({"contains":{"const":1},"minContains":0})", {"[]", "[2]"}, {}},
         {R"({"not":{"type":"null"}})", {"1"}, {"null"}},
         {R"({"if":{"minimum":10},"then":{"multipleOf":5},"else":{"const":1}})",
          {"15", "1"},
          {"11", "2"}},
         {R"({"then":false})", {"1"}, {}},
         {R"({"dependentRequired":{"a":["b"]}})", {R"({"a":1,"b":2})", "{}"}, {R"({"a":1})"}},
         {R"({"dependentSchemas":{"a":{"required":["b"]}}})", {R"({"b":1})"}, {R"({"a":1})"}},
         {R"({"dependencies":{"a":["b"],"c":{"maxProperties":1}}})",
          {R"({"a":1,"b":1})", R"({"c":1})"},
          {R"({"a":1})", R"({"c":1,"d":1})"}},
         {R"({"multipleOf":0.3})", {"0.9", "3"}, {"1"}},
         {R"({"multipleOf":7})", {"14", "-7", "0"}, {"15"}},
         {R"({"oneOf":[{"type":"number"},{"type":"integer"}]})", {"1.5"}, {"1", "null"}},
         {R"({"propertyNames":{"maxLength":2}})", {R"({"ab":1})"}, {R"({"abc":1})"}},
         {R"({"properties":{"a":{}},"patternProperties":{"^b":{"type":"null"}},)"
          R"("additionalProperties":false})",
          {R"({"a":1,"bc":null})"},
          {R"({"bc":1})", R"({"c":1})"}},
         {R"s({"pattern":"a(?=b)"})s", {"\"xab\""}, {"\"ac\""}},
         {R"s({"pattern":"^(a)\\1\\b"})s", {"\"aa b\""}, {"\"aab\""}},
         {R"({"pattern":"^\\u00e9\\p{L}$"})",
          {"\"\u00e9\u00e8\""},
          {"\"\u00e91\"", "\"\u00e9a\\n\""}},
         {R"({"minLength":2,"maxLength":2})", {"\"\u00e9\u00e9\"", "3"}, {"\"\u00e9\""}}});
}

TEST_CASE("what other keywords leave unevaluated is told", "[grammar]") {
  check({{R"({"allOf":[{"properties":{"a":{}}}],"anyOf":[{"required":["b"],"properties":{"b":{}}},)"
          R"(true],"unevaluatedProperties":false})",
          {R"({"a":1})", R"({"a":1,"b":2})"},
          {R"({"c":1})"}},
         {R"({"properties":{"a":{}},"unevaluatedProperties":{"type":"integer"}})",
          {R"({"a":"x","b":1})"},
          {R"({"b":"x"})"}},
         {R"({"allOf":[{"properties":{"a":{}}},{"unevaluatedProperties":false}]})",
          {"{}"},
          {R"({"a":1})"}},
         {R"({"prefixItems":[{}],"unevaluatedItems":false})", {"[1]"}, {"[1,2]"}},
         {R"({"contains":{"type":"null"},"unevaluatedItems":{"type":"integer"}})",
          {"[null,1]"},
          {"[null,true]"}},
         {R"({"items":{},"unevaluatedItems":false})", {"[1,2]"}, {}}});
}

TEST_CASE("a violation names the place, the keyword and what is wrong", "[grammar]") {
  const auto told = [](const std::string& value, const std::string& schema) {
    return check(value, schema).violation.value_or("");
  };
  CHECK(told(R"({"tags":["a","b","a"]})", R"({"properties":{"tags":{"uniqueItems":true}}})") ==
        "tags: uniqueItems: items 0 and 2 are the same");
  CHECK(told(R"({"a":[{"b":7}]})",
             R"({"properties":{"a":{"items":{"properties":{"b":{"multipleOf":2}}}}}})") ==
        "a[0].b: multipleOf: 7 is no multiple of 2");
  CHECK(told("{}", R"({"required":["x"]})") == "required: \"x\" is missing");
  CHECK(told("3", "false") == "no value is allowed here");
}

TEST_CASE("what cannot be told is satisfied, and the verdict says so", "[grammar]") {
  for (const std::string schema :
       {R"({"$ref":"https://example.com/schema"})", R"({"pattern":"("})", R"({"$dynamicRef":"#x"})",
        R"({"$ref":"#"})", R"({"pattern":"^(a*)*$"})",
        R"({"allOf":[{"allOf":[{"$ref":"#"},{"$ref":"#"}]},{"$ref":"#"}]})"}) {
    INFO(schema);
    const SchemaVerdict verdict = check('"' + std::string(60, 'a') + "b\"", schema);
    CHECK_FALSE(verdict.violation);
    CHECK_FALSE(verdict.is_complete);
  }
  // Nor what is left unevaluated where a reference is not followed.
  CHECK_FALSE(
      check(R"({"a":1})", R"({"$dynamicRef":"#x","unevaluatedProperties":false})").violation);
  CHECK(check("\"x\"", R"({"format":"email"})").is_complete);
}

TEST_CASE("the check agrees with the judge of the grammars", "[grammar]") {
  std::mt19937_64 random(7);
  int num_bad = 0;
  for (int round = 0; round < 300; ++round) {
    const json::value schema = random_object_schema(random);
    for (const std::string value :
         {"{}", "[]", R"({"a":1})", R"({"a":"x","b":[1,2],"c":null})", R"({"p0":1,"p1":"a"})"}) {
      INFO(json::serialize(schema) << " of " << value);
      const bool is_good = find_violation(value, schema).empty();
      CHECK(check_schema(json::parse(value), schema, schema).violation.has_value() != is_good);
      num_bad += !is_good;
    }
  }
  CHECK(num_bad > 100);
}

// From `begin` to the end of the paragraph.
std::string paragraph(const std::string& text, const std::string& begin) {
  const size_t at = text.find(begin);
  REQUIRE(at != std::string::npos);
  return text.substr(at, text.find("\n*", at) - at);
}

TEST_CASE("server/API.md lists what is not enforced, and what is not even checked", "[grammar]") {
  std::ifstream file(TANDEM_SOURCE_DIR "/server/API.md");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto check_list = [](const std::string& list, std::span<const std::string_view> keywords) {
    for (const std::string_view keyword : keywords) {
      INFO(keyword);
      CHECK(list.find(std::string("`").append(keyword).append("`")) != std::string::npos);
    }
  };
  check_list(paragraph(text, "* What no grammar here can enforce"), unenforced_keywords());
  check_list(paragraph(text, "Neither enforced nor checked:"), unchecked_keywords());
}

TEST_CASE("calls of functions that are not enforced as a whole are checked", "[grammar]") {
  GrammarCompiler compiler(byte_tokenizer(), kByteVocabSize);
  const auto grammar = compiler.compile(
      {.tools = {{"loose", R"({"type":"object","properties":{"t":{"uniqueItems":true}}})"},
                 {"held", R"({"type":"object","properties":{"t":{"type":"integer"}}})"}}});
  REQUIRE(grammar.ok());
  CHECK((*grammar)->find_violation("loose", R"({"t": [1, 1]})") ==
        "t: uniqueItems: items 0 and 1 are the same");
  CHECK_FALSE((*grammar)->find_violation("loose", R"({"t": [1, 2]})"));
  CHECK((*grammar)->find_violation("loose", "{"));
  // What a grammar enforces needs no check: such text does not come about.
  CHECK_FALSE((*grammar)->find_violation("held", R"({"t": "x"})"));
  CHECK_FALSE((*grammar)->find_violation("unknown", "{}"));
}

}  // namespace
}  // namespace tandem::tests
