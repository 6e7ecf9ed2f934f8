// What the grammar of a schema lets through, keyword by keyword.
#include "runtime/grammar/json_schema.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "tests/runtime/grammar/grammar_fixture.h"
#include "tests/runtime/grammar/schema_validator.h"

namespace tandem::tests {
namespace {

struct Case {
  std::string schema;
  std::vector<std::string> allowed;
  std::vector<std::string> refused;
};

SchemaGrammar exact(const std::string& schema) {
  auto grammar = json_schema_grammar(schema, SchemaPolicy::kExact);
  if (!grammar) FAIL(schema << ": " << grammar.error().message);
  return std::move(*grammar);
}

void check(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    INFO(one.schema);
    const SchemaGrammar grammar = exact(one.schema);
    const boost::json::value schema = boost::json::parse(one.schema);
    for (const std::string& text : one.allowed) {
      INFO(text);
      CHECK(derives(grammar, text));
      CHECK(find_violation(text, schema) == "");
    }
    for (const std::string& text : one.refused) {
      INFO(text);
      CHECK_FALSE(derives(grammar, text));
    }
  }
}

TEST_CASE("types, constants and listed values", "[grammar]") {
  check({{R"({"type":"null"})", {"null"}, {"nul", "0"}},
         {R"({"type":"boolean"})", {"true", "false"}, {"True", "1"}},
         {R"({"type":"integer"})", {"0", "-7", "42"}, {"007", "1.0", "+1", "1e3", "-0"}},
         {R"({"type":"number"})", {"0", "-1.5", "2e10"}, {".5", "1.", "1e", "NaN", "031", "00"}},
         {R"({"type":["string","null"]})", {"null", "\"a\""}, {"1"}},
         {R"({"const":{"a":[1,"x"]}})", {R"({"a":[1,"x"]})", R"({"a": [1, "x"]})"}, {"{}"}},
         {R"({"enum":["a\"b",1,null]})", {R"("a\"b")", "1", "null"}, {"\"a\"", "2"}},
         {R"({"enum":["a",1,true],"type":"string"})", {"\"a\""}, {"1", "true"}},
         {R"({"enum":["ab","b1",7],"pattern":"^[a-z]+$"})", {"\"ab\"", "7"}, {"\"b1\""}},
         {R"({"const":[1,1],"uniqueItems":false})", {"[1, 1]"}, {"[1]"}},
         {R"({"enum":[1,2,3],"allOf":[{"enum":[2,3,4]}]})", {"2", "3"}, {"1", "4"}}});
}

TEST_CASE("strings: escapes, lengths, patterns, formats", "[grammar]") {
  check({{R"({"type":"string"})",
          {"\"\"", R"("a\n\u00e9")", R"("\ud83d\ude00")", "\"\xC3\xA9\""},
          {"\"\n\"", R"("\x")", R"("\ud83d")", R"("\ude00")", "\"", "\"\xC3\"",
           // no UTF-8: longer than need be, a surrogate, beyond the last character
           "\"\xC0\x80\"", "\"\xE0\x80\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\""}},
         {R"({"type":"string","minLength":2,"maxLength":3})",
          {"\"ab\"", R"("\n\n\n")", "\"\xE4\xBD\xA0\xE5\xA5\xBD\""},
          {"\"a\"", "\"abcd\"", "\"\xE4\xBD\xA0\""}},
         {R"({"type":"string","pattern":"^wf_[a-z0-9-]{6,}$"})",
          {"\"wf_abc-12\"", "\"wf_abcdefghijk\""},
          {"\"wf_abc\"", "\"wf_ABCDEF\"", "\"xwf_abcdef\""}},
         {R"s({"type":"string","pattern":"^a(bc*)?$"})s", {"\"a\"", "\"abcc\""}, {"\"acc\""}},
         {R"({"type":"string","pattern":"b+"})", {"\"b\"", R"("a\nbb c")"}, {"\"ac\"", "\"\""}},
         {R"({"type":"string","pattern":"^a|z$"})", {"\"ab\"", "\"bz\""}, {"\"bab\""}},
         {R"({"type":"string","pattern":"^[^\"a]\\n$"})", {R"("b\n")"}, {R"("a\n")", R"("\"\n")"}},
         {R"({"type":"string","format":"date"})", {"\"2024-02-28\""}, {"\"2024-13-01\""}},
         {R"({"type":"string","format":"uuid"})",
          {"\"123e4567-e89b-12d3-a456-426614174000\""},
          {"\"123e4567\""}},
         {R"({"type":"string","format":"uri"})",
          {"\"https://a.b/c?d=1#e\"", "\"pg://me:secret@db:5432/%C3%A9%20x\"", "\"a://b@c\""},
          {"\"a b\"", "\"a://b@c@d\"", "\"a://b:c/\"", "\"a://b/%2x\"", "\"a://b/%\""}},
         {R"({"type":"string","format":"password"})", {"\"x\""}, {}}});
}

TEST_CASE("strings of any length are counted, wherever they stand", "[grammar]") {
  const std::string a300(300, 'a'), a301(301, 'a');
  check({{R"({"type":"string","minLength":300,"maxLength":300})",
          {'"' + a300 + '"'},
          {'"' + a301 + '"', '"' + a300.substr(1) + '"', "\"\""}},
         {R"({"type":"string","maxLength":3})",
          {R"("\ud83d\ude00ab")", R"("\n\"\\")", R"("\u00e9\u00e9\u00e9")"},
          {R"("\ud83d\ude00abc")", R"("\n\n\n\n")"}},
         {R"({"properties":{"a":{"maxLength":2},"b":{"items":{"minLength":2}}},"type":"object"})",
          {R"({"a": "xy", "b": ["xy", "abc"]})", R"({"b": [], "a": ""})"},
          {R"({"a":"xyz"})", R"({"b":["x"]})", R"({"b":["xy", "x"]})"}},
         {R"({"type":"object","properties":{"a\"b":{}},"additionalProperties":{"maxLength":1}})",
          {R"({"a\"b":"long","c":"x"})"},
          {R"({"c":"xy"})"}},
         {R"({"prefixItems":[{"type":"string"},{"maxLength":1}],"items":{"type":"string",)"
          R"("maxLength":2}})",
          {R"(["long","x","xy","xy"])"},
          {R"(["long","xy"])", R"(["long","x","xyz"])"}},
         {R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"s":{"maxLength":1},)"
          R"("n":{"$ref":"#/$defs/n"}},"required":["s"]}}})",
          {R"({"s":"a","n":{"s":"b"}})"},
          {R"({"s":"a","n":{"s":"bc"}})"}},
         {R"({"anyOf":[{"type":"string","maxLength":2},{"type":"null"}]})",
          {"\"ab\"", "null"},
          {"\"abc\""}},
         {R"({"anyOf":[{"type":"string","minLength":2,"maxLength":4},{"enum":["auto"]}]})",
          {"\"auto\"", "\"ab\""},
          {"\"a\"", "\"abcde\""}},
         {R"({"type":"string","pattern":"^wf_[a-z]{2,}$","maxLength":6})",
          {"\"wf_ab\"", "\"wf_abc\""},
          {"\"wf_abcd\"", "\"wf_a\""}},
         {R"({"type":"string","pattern":"^[a-z]+$","minLength":3,"maxLength":64})",
          {"\"abc\""},
          {"\"ab\"", '"' + a300 + '"'}},
         {R"({"type":"string","pattern":"^(a|b)$","maxLength":3})", {"\"a\""}, {"\"c\""}},
         {R"({"type":"string","format":"uri","maxLength":24})",
          {"\"https://example.org/abcd\"", "\"https://example.org:80/a\""},
          {"\"https://example.org/abcde\"", "\"a://b@c@d\"", "\"a://b:c\""}},
         {R"({"enum":["a","abc"],"maxLength":2})", {"\"a\""}, {"\"abc\""}}});
}

TEST_CASE("numbers: limits and multiples", "[grammar]") {
  check({{R"({"type":"integer","minimum":3,"maximum":120})",
          {"3", "9", "10", "99", "100", "120"},
          {"2", "121", "1000", "-3", "03"}},
         {R"({"type":"integer","exclusiveMinimum":0,"minimum":-5})", {"1"}, {"0", "-1"}},
         {R"({"type":"integer","minimum":-12,"maximum":-3})", {"-12", "-3"}, {"-13", "-2", "3"}},
         {R"({"type":"integer","minimum":0,"maximum":9007199254740991})",
          {"0", "9007199254740991"},
          {"9007199254740992", "-1"}},
         {R"({"type":"integer","multipleOf":7,"minimum":0,"maximum":30})", {"0", "21"}, {"22"}},
         {R"({"type":"number","multipleOf":0.01})", {"1.25", "3", "0.1"}, {"1.255", "1e1"}},
         {R"({"type":"number","minimum":0.5,"exclusiveMaximum":2})",
          {"0.5", "0.50", "1", "1.999", "0.501"},
          {"0.4", "0.49", "2", "2.0", "0", "-1"}},
         {R"({"type":"number","minimum":-1.25,"maximum":-0.5})",
          {"-1.25", "-1", "-0.5", "-0.75"},
          {"-1.26", "-0.4", "0", "1"}},
         {R"({"type":"number","exclusiveMinimum":0})", {"0.000001", "1"}, {"0", "0.0", "-1"}},
         {R"({"minimum":1,"maximum":5})", {"1", "2.5"}, {"\"a\"", "6"}}});
}

TEST_CASE("arrays: items, prefixes, counts", "[grammar]") {
  check({{R"({"type":"array"})", {"[]", "[1, \"a\", []]"}, {"[1,]", "[,]"}},
         {R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3})",
          {"[1]", "[1, 2,3]"},
          {"[]", "[1,2,3,4]", "[\"a\"]"}},
         {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"boolean"}]})",
          {"[]", "[1]", "[1, true]"},
          {"[true]", "[1,true,2]"}},
         {R"({"prefixItems":[{"type":"integer"}],"items":{"type":"null"},"minItems":2})",
          {"[1,null]", "[1,null,null]"},
          {"[1]", "[1,2]"}},
         {R"({"type":"array","items":[{"type":"integer"}],"additionalItems":{"type":"null"}})",
          {"[1,null]"},
          {"[1,2]"}},
         {R"({"type":"array","items":false})", {"[]"}, {"[1]"}}});
}

TEST_CASE("objects: required, order, closed and open", "[grammar]") {
  check(
      {{R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}},)"
        R"("required":["a"]})",
        {R"({"a":1})", R"({"a": 1, "b": true})", R"({"b": true, "a": 1})", "{\n  \"a\": 1\n}"},
        {"{}", R"({"b":true})", R"({"a":1,"c":2})", R"({"a":1,"a":2})", R"({"a":1,})"}},
       {R"({"type":"object"})", {"{}", R"({"x": {"y": [1]}})"}, {"[]"}},
       {R"({"type":"object","properties":{},"additionalProperties":false})", {"{}"}, {"{\"a\":1}"}},
       {R"({"properties":{"ab":{"type":"integer"}},"additionalProperties":{"type":"boolean"}})",
        {R"({"ab":1})", R"({"x":true})", R"({"ab":1, "a":true, "abc":false})"},
        {R"({"ab":true})", R"({"x":1})", R"({"\u0061b":true})"}},
       {R"({"type":"object","required":["x"],"additionalProperties":{"type":"integer"}})",
        {R"({"x":1})", R"({"x":1,"y":2})"},
        {"{}", R"({"x":"a"})"}},
       {R"({"type":"object","additionalProperties":{"type":"integer"},)"
        R"("propertyNames":{"pattern":"^[a-z]+$"}})",
        {R"({"ab":1})"},
        {R"({"A":1})"}},
       {R"({"type":"object","properties":{"ab":{},"abc":{}},"propertyNames":{"maxLength":2}})",
        {R"({"ab":1})"},
        {R"({"abc":1})"}},
       {R"({"type":"object","patternProperties":{"^x-":{"type":"integer"}}})",
        {"{}", R"({"x-a":1})"},
        {R"({"y":1})", R"({"x-a":true})"}},
       {R"({"properties":{"a":{},"b":{},"c":{}},"minProperties":2,"type":"object"})",
        {R"({"a":1,"c":2})", R"({"a":1,"b":2,"c":3})"},
        {"{}", R"({"b":1})"}},
       {R"({"properties":{"a":{},"b":{},"c":{}},"maxProperties":1,"type":"object"})",
        {"{}", R"({"b":1})"},
        {R"({"a":1,"b":2})"}},
       {R"({"type":"object","properties":{"a":false,"b":{"type":"null"}}})",
        {"{}", R"({"b":null})"},
        {R"({"a":1})"}}});
}

TEST_CASE("many properties come in the order of the schema", "[grammar]") {
  std::string properties;
  for (int idx = 0; idx < 12; ++idx) {
    properties += (idx > 0 ? "," : "");
    properties += "\"p" + std::to_string(idx) + "\":{\"type\":\"integer\"}";
  }
  check({{R"({"type":"object","properties":{)" + properties + R"(},"required":["p3"]})",
          {R"({"p0":1,"p3":2})", R"({"p3":1,"p11":2})"},
          {R"({"p3":1,"p0":2})", R"({"p0":1,"p4":2})", "{}"}}});
}

TEST_CASE("combinations and references", "[grammar]") {
  check(
      {{R"({"anyOf":[{"const":"a"},{"type":"integer"}]})", {"\"a\"", "3"}, {"\"b\""}},
       {R"({"type":"object","properties":{"k":{"type":"string"}},"required":["k"],)"
        R"("anyOf":[{"properties":{"k":{"const":"x"}}},{"properties":{"k":{"const":"y"}}}]})",
        {R"({"k":"x"})", R"({"k":"y"})"},
        {R"({"k":"z"})", "{}"}},
       {R"({"allOf":[{"type":"integer","minimum":3},{"maximum":5}]})", {"3", "5"}, {"2", "6"}},
       {R"({"oneOf":[{"type":"string"},{"type":"integer"}]})", {"\"a\"", "1"}, {"null"}},
       {R"({"oneOf":[{"type":"object","properties":{"t":{"const":"a"}},"required":["t"]},)"
        R"({"type":"object","properties":{"t":{"const":"b"},"n":{"type":"null"}},)"
        R"("required":["t"]}]})",
        {R"({"t":"a"})", R"({"t":"b","n":null})"},
        {R"({"t":"a","n":null})"}},
       {R"({"$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},)"
        R"("next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"]}},)"
        R"("$ref":"#/$defs/node"})",
        {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
        {R"({"v":1,"next":{"v":2}})"}},
       {R"({"$ref":"#/definitions/a~1b","definitions":{"a/b":{"type":"null"}}})", {"null"}, {"1"}},
       {R"({"allOf":[{"properties":{"a":{"type":"null"}}}],"type":"object",)"
        R"("unevaluatedProperties":false})",
        {"{}", R"({"a":null})"},
        {R"({"b":1})", R"({"a":1})"}},
       {R"({"type":"object","unevaluatedProperties":{"type":"null"},"required":["x"]})",
        {R"({"x":null})", R"({"x":null,"y":null})"},
        {"{}", R"({"x":1})", R"({"x":null,"y":1})"}},
       {R"({"type":"array","unevaluatedItems":false})", {"[]"}, {"[1]"}},
       {R"({"not":false,"type":"null","$comment":"x","title":"t","default":1})", {"null"}, {}}});
}

TEST_CASE("what cannot be enforced is refused by keyword and path", "[grammar]") {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {R"({"properties":{"t":{"type":"array","uniqueItems":true}}})",
       {"properties.t", "uniqueItems"}},
      {R"({"not":{"type":"null"}})", {"'not'"}},
      {R"({"if":{"type":"string"},"then":{"minLength":1}})", {"'if'"}},
      {R"({"type":"array","contains":{"type":"null"}})", {"contains"}},
      {R"({"type":"array","contains":false})", {"contains"}},
      {R"({"anyOf":[{"type":"object","unevaluatedProperties":false}],"properties":{"a":{}}})",
       {"anyOf.0", "unevaluatedProperties"}},
      {R"({"type":"object","dependentRequired":{"a":["b"]}})", {"dependentRequired"}},
      {R"({"type":"object","dependentSchemas":{"a":{}}})", {"dependentSchemas"}},
      {R"({"type":"number","multipleOf":0.3})", {"multipleOf"}},
      {R"({"type":"integer","multipleOf":7})", {"multipleOf"}},
      {R"({"$ref":"https://example.com/schema"})", {"$ref"}},
      {R"({"$ref":"#/$defs/missing"})", {"$ref"}},
      {R"({"type":"string","format":"regex"})", {"format", "regex"}},
      {R"s({"type":"string","pattern":"a(?=b)"})s", {"pattern", "look-ahead"}},
      {R"({"type":"string","pattern":"\\bword"})", {"pattern", "word boundary"}},
      {R"s({"type":"string","pattern":"(a)\\1"})s", {"back reference"}},
      {R"({"type":"string","pattern":"\\p{L}"})", {"Unicode property"}},
      {R"s({"type":"string","pattern":"^(ab)*$","maxLength":3})s", {"maxLength"}},
      {R"({"type":"string","pattern":"b","maxLength":3})", {"maxLength"}},
      {R"({"type":"string","format":"email","maxLength":9})", {"maxLength"}},
      {R"({"type":"object","propertyNames":{"maxLength":40}})", {"names above 8"}},
      {R"({"anyOf":[{"type":"string","maxLength":3},{"const":"long enough"}]})", {"lengths"}},
      {R"({"anyOf":[{"type":"string","maxLength":3},{"type":"string","pattern":"^a*$"}]})",
       {"lengths"}},
      {R"({"oneOf":[{"type":"number"},{"type":"integer"}]})", {"oneOf"}},
      {R"({"type":"object","patternProperties":{"^a":{},"b$":{}}})", {"patternProperties"}},
      {R"({"type":"object","properties":{"a":{}},"patternProperties":{"^b":{}}})",
       {"patternProperties"}},
      {R"({"type":"text"})", {"type", "text"}},
      {R"({"type":"string","minLength":5,"maxLength":2})", {"no value"}},
      {R"({"type":"object","properties":{"a":false},"required":["a"]})", {"no value"}},
      {"false", {"no value"}},
      {"[]", {"schema"}},
      {"{", {"JSON"}}};
  for (const auto& [schema, words] : cases) {
    INFO(schema);
    const auto exact = json_schema_grammar(schema, SchemaPolicy::kExact);
    REQUIRE_FALSE(exact.ok());
    for (const std::string& word : words) {
      INFO(exact.error().message);
      CHECK(exact.error().message.find(word) != std::string::npos);
    }
    // The same schema of a tool is taken as far as it goes, and what is left out is said.
    const auto best = json_schema_grammar(schema, SchemaPolicy::kArguments);
    REQUIRE(best.ok());
    CHECK_FALSE(best->unenforced.empty());
    CHECK_FALSE(derives(*best, "{"));
  }
}

TEST_CASE("names that undeclared properties must differ from are counted in the whole schema",
          "[grammar]") {
  const auto schema = [](size_t length) {
    const std::string name(length, 'a');
    return R"({"type":"object","additionalProperties":{"type":"object","properties":{")" + name +
           R"(":{}},"additionalProperties":true},"properties":{")" + name + R"(":{}}})";
  };
  const std::string longest(256, 'a');
  const SchemaGrammar grammar = exact(schema(256));
  CHECK(derives(grammar, R"({"b":{"a":1}})"));
  CHECK_FALSE(derives(grammar, "{\"" + longest + "\":1,\"" + longest + "\":{}}"));
  // Of 40,000 the first one alone is too much.
  for (const size_t length : {257, 40'000}) {
    const auto refused = json_schema_grammar(schema(length), SchemaPolicy::kExact);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().message.find("more than 512 characters") != std::string::npos);
    const auto best = json_schema_grammar(schema(length), SchemaPolicy::kArguments);
    REQUIRE(best.ok());
    CHECK_FALSE(best->unenforced.empty());
    CHECK(derives(*best, "{\"" + std::string(length, 'a') + "\":1}"));
  }
}

// "[0,1,2]"
std::string numbers(int count, const std::string& before, const std::string& behind) {
  std::string list = "[";
  for (int idx = 0; idx < count; ++idx)
    list += (idx > 0 ? "," : "") + before + std::to_string(idx) + behind;
  return list + "]";
}

std::string refusal(const std::string& schema) {
  const auto grammar = json_schema_grammar(schema, SchemaPolicy::kExact);
  return grammar ? "" : grammar.error().message;
}

TEST_CASE("listed values are limited by their bytes, each and in the whole schema", "[grammar]") {
  const std::string text = '"' + std::string(1022, 'a') + '"';
  const auto lists = [&](int count, const std::string& last) {
    std::string list;
    for (int idx = 0; idx < count; ++idx) list += text + ",";
    return R"({"type":"object","properties":{"a":{"type":"string","enum":[)" + list + R"("b"]},)" +
           R"("b":{"const":)" + last + "}}}";
  };
  CHECK(refusal(lists(30, text)) == "");
  for (const std::string& large : {lists(31, text), lists(1, "\"b" + text.substr(1))}) {
    CHECK(refusal(large).starts_with("properties.b.const: listed values of more than 1024 bytes"));
    const auto best = json_schema_grammar(large, SchemaPolicy::kArguments);
    REQUIRE(best.ok());
    CHECK(best->unenforced.size() == 1);
    CHECK(derives(*best, R"({"a":"b","b":null})"));
    CHECK_FALSE(derives(*best, R"({"a":"c"})"));
  }
}

TEST_CASE("many listed values are compared in less steps than each with each", "[grammar]") {
  CHECK(refusal(R"({"enum":)" + numbers(4000, "", "") + "}") == "");
  CHECK(refusal(R"({"oneOf":)" + numbers(1000, R"({"const":)", "}") + "}") == "");
  check({{R"({"oneOf":[{"const":1},{"type":"string"},{"enum":[2,3]},{"const":true},false]})",
          {"1", "\"a\"", "3", "true"},
          {"4", "false"}}});
  for (const std::string overlapping :
       {R"({"const":1.0},{"type":"null"},{"enum":[0,1]})", R"({"type":"string"},{"const":"a"})",
        R"({"enum":[{"a":1,"b":2}]},{"const":{"b":2,"a":1}})"}) {
    INFO(overlapping);
    CHECK(refusal(R"({"oneOf":[)" + overlapping + "]}").find("may both hold") != std::string::npos);
  }
  // Values equal, of which the types allow none to one side.
  CHECK(refusal(R"({"oneOf":[{"const":1,"type":"string"},{"const":1}]})") == "");
}

TEST_CASE("comparing is given up for the whole schema together", "[grammar]") {
  const std::string large = "the schema is too large for a grammar";
  const std::string lists = numbers(4000, "", "");
  CHECK(refusal(R"({"allOf":[{"enum":)" + lists + R"(},{"enum":)" + lists + "}]}") == large);
  const std::string alternatives =
      numbers(3000, R"({"type":"object","required":["t"],"properties":{"t":{"const":)", "}}}");
  CHECK(refusal(R"({"oneOf":)" + alternatives + "}") == large);
  const auto best =
      json_schema_grammar(R"({"oneOf":)" + alternatives + "}", SchemaPolicy::kArguments);
  REQUIRE(best.ok());
  CHECK(best->unenforced == std::vector{large});
}

TEST_CASE("a hostile schema is refused, not followed", "[grammar]") {
  std::string deep = "{\"type\":\"null\"}";
  for (int idx = 0; idx < 100; ++idx) deep = "{\"type\":\"array\",\"items\":" + deep + "}";
  CHECK(json_schema_grammar(deep, SchemaPolicy::kExact).ok());
  const std::string loop = R"({"$ref":"#"})";
  CHECK(json_schema_grammar(loop, SchemaPolicy::kExact).ok());
  const std::string all = R"({"allOf":[{"$ref":"#/allOf/1"},{"$ref":"#/allOf/0"}]})";
  CHECK(json_schema_grammar(all, SchemaPolicy::kExact).ok());
  const auto chain = [](int length) {
    std::string schemas;
    for (int idx = 0; idx < length; ++idx)
      schemas += fmt::format(R"("{}":{{"$ref":"#/$defs/{}"}},)", idx, idx + 1);
    return fmt::format(R"({{"$ref":"#/$defs/0","$defs":{{{}"{}":{{"type":"null"}}}}}})", schemas,
                       length);
  };
  CHECK(refusal(chain(200)) == "");
  CHECK(refusal(chain(300)) == "the schema is nested too deeply");
  // 2^20 combinations of alternatives
  std::string parts;
  for (int idx = 0; idx < 20; ++idx) {
    parts += (idx > 0 ? "," : "");
    parts += R"({"anyOf":[{"minimum":)" + std::to_string(idx) + R"(},{"maximum":100}]})";
  }
  const auto exact =
      json_schema_grammar(R"({"type":"integer","allOf":[)" + parts + "]}", SchemaPolicy::kExact);
  REQUIRE_FALSE(exact.ok());
  CHECK(exact.error().message.find("combinations") != std::string::npos);
}

}  // namespace
}  // namespace tandem::tests
