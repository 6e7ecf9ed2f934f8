#include "runtime/tokenizer/assistant_parser.h"

#include <catch2/catch_test_macros.hpp>

#include "tests/runtime/tokenizer/answer_fixture.h"
#include "tests/runtime/tokenizer/vocabulary_fixture.h"

namespace tandem::tests {
namespace {

using Kind = AssistantDelta::Kind;
using Ids = std::vector<int32_t>;

const std::string kSection = "<|tool_calls_section_begin|>";
const std::string kSectionEnd = "<|tool_calls_section_end|>";
const std::string kCall = "<|tool_call_begin|>";
const std::string kArguments = "<|tool_call_argument_begin|>";
const std::string kCallEnd = "<|tool_call_end|>";

// The answer, after checking that it is the same for every segmentation of the text.
Answer parse_all(const std::string& text, const AssistantParserOptions& options = {}) {
  const CutText cut({text}, 16, 5);
  const Answer answer = parse_answer(cut.tokenizer(), options, cut.sequences()[0]);
  for (const Ids& ids : cut.sequences()) {
    if (!(parse_answer(cut.tokenizer(), options, ids) == answer)) {
      FAIL("another answer for another segmentation of " << text);
    }
  }
  return answer;
}

std::string call(const std::string& id, const std::string& arguments) {
  return kCall + id + kArguments + arguments + kCallEnd;
}

ToolDeclaration declared(std::string name, std::string properties, std::string required = "[]") {
  return {std::move(name), R"({"type":"object","properties":)" + std::move(properties) +
                               R"(,"required":)" + std::move(required) + "}"};
}

TEST_CASE("thinking, content and calls are told apart", "[parser]") {
  const Answer answer = parse_all("<think>Hm 中…</think>\n\nLook: 😀" + kSection +
                                  call("functions.f:0", R"({"é": 1})") + kSectionEnd);
  CHECK(answer.reasoning == "Hm 中…");
  CHECK(answer.content == "\n\nLook: 😀");  // white space is the model's
  CHECK(answer.calls == std::vector<Answer::Call>{{"functions.f:0", "f", R"({"é": 1})"}});
}

TEST_CASE("deltas count the tokens that have come by then", "[parser]") {
  const std::string text =
      "<think>Hm 中</think>aXb" + kSection + call("functions.f:0", "{} ") + kSectionEnd + " aX";
  const CutText cut({text}, 16, 5);
  for (const Ids& ids : cut.sequences()) {
    AssistantParser parser(cut.tokenizer(), {.stop = {.strings = {"XY"}}});
    std::vector<AssistantDelta> deltas;
    int32_t num_pushed = 0;
    const auto num_told = [&] {
      int32_t sum = 0;
      for (const AssistantDelta& delta : deltas) sum += delta.num_tokens;
      return sum;
    };
    for (const int32_t id : ids) {
      const size_t num_before = deltas.size();
      parser.push(id, deltas);
      ++num_pushed;
      CHECK(num_told() <= num_pushed);
      if (deltas.size() > num_before) CHECK(num_told() == num_pushed);
    }
    const size_t num_before = deltas.size();
    parser.finish(deltas);
    REQUIRE(deltas.size() > num_before);  // the "X" that could have become a stop string
    CHECK(num_told() == num_pushed);
  }
}

TEST_CASE("an empty thinking part is not none", "[parser]") {
  CHECK(parse_all("<think></think>x").reasoning == "");
  CHECK_FALSE(parse_all("x").reasoning.has_value());
  CHECK(parse_all("<think>" + kSection + call("functions.f:0", "{}")).reasoning == "");
}

TEST_CASE("bytes that never become a character are replaced once", "[parser]") {
  const Answer answer =
      parse_all("<think>\xE4\xB8</think>\xF0\x9F" + kSection +
                call("functions.f:0", "{\"a\":\"\xE4\"}") + kSectionEnd + "x\xC3");
  CHECK(answer.reasoning == "\uFFFD");
  CHECK(answer.content == "\uFFFDx\uFFFD");
  CHECK(answer.calls.at(0).arguments == "{\"a\":\"\uFFFD\"}");
}

TEST_CASE("reasoning tokens are those of the thinking part, markers included", "[parser]") {
  const auto count = [](const std::string& text, AssistantParserOptions options = {}) {
    const CutText cut({text}, 0, 1);
    AssistantParser parser(cut.tokenizer(), std::move(options));
    std::vector<AssistantDelta> out;
    for (const int32_t id : cut.sequences()[0]) parser.push(id, out);
    return parser.reasoning_tokens();
  };
  CHECK(count("hello") == 0);
  CHECK(count("<think>abc</think>de") == 5);
  CHECK(count("<think>abc") == 4);
  CHECK(count("<think></think>") == 2);
  CHECK(count("<think>abc" + kSection + call("functions.f:0", "{}")) == 4);
  CHECK(count("abc</think>de", {.starts_in_reasoning = true}) == 4);
  CHECK(count("</think>de") == 0);
}

TEST_CASE("a thinking part that the prompt opened needs no marker", "[parser]") {
  const Answer answer = parse_all("abc</think>de", {.starts_in_reasoning = true});
  CHECK(answer.reasoning == "abc");
  CHECK(answer.content == "de");
}

TEST_CASE("a call's name follows the declared names", "[parser]") {
  const auto name_of = [](const std::string& id, std::vector<ToolDeclaration> tools) {
    const Answer answer = parse_all(kSection + call(id, "{\"q\":1}"), {.tools = std::move(tools)});
    return answer.calls.empty() ? "(dropped)" : answer.calls[0].name;
  };
  const ToolDeclaration dotted{"api.tools.search"};
  const ToolDeclaration other{"other"};
  CHECK(name_of("functions.api.tools.search:42", {dotted, other}) == "api.tools.search");
  CHECK(name_of("api.tools.search:42", {dotted, other}) == "api.tools.search");
  CHECK(name_of("api.tools.search:42", {}) == "search");
  CHECK(name_of("functions.api.tools.search:42", {{"search"}, other}) == "search");
  CHECK(name_of("functions.functions.x:0", {{"functions.x"}, other}) == "functions.x");
  CHECK(name_of("functions.x:0", {{"functions.x"}, other}) == "functions.x");
  CHECK(name_of("search:2", {}) == "search");
  CHECK(name_of("functions.mcp__a-b:0", {}) == "mcp__a-b");
  CHECK(name_of("functions.a:b:0", {{"a:b"}, other}) == "a:b");
  CHECK(name_of("other", {dotted, other}) == "other");  // declared: needs no index
  CHECK(name_of("functions.other", {dotted, other}) == "other");
  CHECK(name_of("unknown", {dotted, other}) == "(dropped)");
  CHECK(name_of("functions.:0", {dotted, other}) == "(dropped)");
  CHECK(name_of("functions.:0", {}) == "(dropped)");
  CHECK(name_of(" \n functions.f:0 \n", {}) == "f");
  CHECK(name_of("anything", {other}) == "other");  // the only tool there is
}

TEST_CASE("ids are the model's where its index is the expected one", "[parser]") {
  const auto ids_of = [](const std::string& text, int32_t num_history) {
    std::vector<std::string> ids;
    for (const Answer::Call& made :
         parse_all(text, {.num_history_tool_calls = num_history}).calls) {
      ids.push_back(made.id);
    }
    return ids;
  };
  using Texts = std::vector<std::string>;
  const std::string two = kSection + call("functions.f:3", "{}") + call("functions.g:4", "{}");
  CHECK(ids_of(two, 3) == Texts{"functions.f:3", "functions.g:4"});
  CHECK(ids_of(two, 0) == Texts{"functions.f:0", "functions.g:1"});
  CHECK(ids_of(kSection + call("functions.a.f:7", "{}"), 7) == Texts{"functions.a.f:7"});
  CHECK(ids_of(kSection + call("f:0", "{}"), 0) == Texts{"functions.f:0"});
  CHECK(ids_of(kSection + call("functions.f:15", "{}"), 5) == Texts{"functions.f:5"});
}

TEST_CASE("an id without a name is inferred from the arguments, or the call dropped", "[parser]") {
  const std::vector<ToolDeclaration> tools = {
      declared("text", R"({"v": {"type": "string"}, "mode": {"const": 1}})", R"(["v"])"),
      declared("whole", R"({"v": {"type": "integer"}})", R"(["v"])"),
      declared("list", R"({"v": {"type": ["array", "null"]}})", R"(["v"])"),
      declared("pick", R"({"v": {"enum": [0.5, true]}})", R"(["v"])"), declared("none", "{}")};
  const auto name_of = [&](const std::string& arguments) {
    const Answer answer = parse_all(kSection + call("call_1", arguments), {.tools = tools});
    if (answer.calls.empty()) return std::string("(dropped)");
    CHECK(answer.calls[0].arguments == arguments);
    CHECK(answer.calls[0].id == "functions." + answer.calls[0].name + ":0");
    return answer.calls[0].name;
  };
  CHECK(name_of(R"({"v": "x"})") == "text");
  CHECK(name_of(R"({"v": "x", "mode": 1})") == "text");
  CHECK(name_of(R"({"v": "x", "mode": 2})") == "(dropped)");
  CHECK(name_of(R"({"v": "x", "new": 2})") == "(dropped)");
  CHECK(name_of(R"({"v": 3})") == "whole");
  CHECK(name_of(R"({"v": 3.0})") == "whole");
  CHECK(name_of(R"({"v": 3.5})") == "(dropped)");
  CHECK(name_of(R"({"v": null})") == "list");
  CHECK(name_of(R"({"v": []})") == "list");
  CHECK(name_of(R"({"v": true})") == "pick");
  CHECK(name_of(R"({"v": 0.5})") == "pick");
  CHECK(name_of("{}") == "none");
  CHECK(name_of("[]") == "(dropped)");
  CHECK(name_of("{\"v\": ") == "(dropped)");
  CHECK(name_of(std::string(5000, '[')) == "(dropped)");
  const std::string deep = std::string(60, '[') + std::string(60, ']');
  CHECK(name_of("{\"v\": " + deep + "}") == "list");
  const std::vector<ToolDeclaration> one = {declared("f", "{\"v\": {\"default\": " + deep + "}}")};
  CHECK(parse_all(kSection + call("call_1", R"({"v": 1})"), {.tools = one}).calls.size() == 1);
}

TEST_CASE("a deferred call shows nothing before its end", "[parser]") {
  const std::vector<ToolDeclaration> tools = {declared("f", R"({"a": {}})"),
                                              declared("g", R"({"b": {}})")};
  const CutText cut({kSection, kCall, "call_3", kArguments, "{\"b\"", ": 1}", kCallEnd}, 0, 1);
  AssistantParser parser(cut.tokenizer(), {.tools = tools});
  std::vector<AssistantDelta> out;
  for (const int32_t id : cut.by_chunk()) {
    CHECK(out.empty());
    parser.push(id, out);
  }
  REQUIRE(out.size() == 2);
  CHECK(out[0].call_name == "g");
  CHECK(out[1].text == "{\"b\": 1}");
  CHECK(parser.num_dropped_calls() == 0);
}

TEST_CASE("argument pieces are forwarded as they come", "[parser]") {
  const CutText cut(
      {kSection, kCall, "functions.f:0", kArguments, " {\"a\":", " \"b\"  ", "}\n", kCallEnd}, 0,
      1);
  std::vector<AssistantDelta> deltas;
  parse_answer(cut.tokenizer(), {}, cut.by_chunk(), &deltas);
  REQUIRE(deltas.size() == 4);
  CHECK(deltas[0].kind == Kind::kToolCallBegin);
  CHECK(deltas[0].text.empty());
  CHECK(deltas[1].text == "{\"a\":");
  CHECK(deltas[2].text == " \"b\"");
  CHECK(deltas[3].text == "  }");  // inner white space is kept, what trails is not
}

TEST_CASE("a call without arguments has empty ones", "[parser]") {
  for (const std::string& body : {kArguments, kArguments + " \n", std::string()}) {
    const Answer answer = parse_all(kSection + kCall + "functions.f:0" + body + kCallEnd);
    CHECK(answer.calls == std::vector<Answer::Call>{{"functions.f:0", "f", "{}"}});
  }
}

TEST_CASE("an answer cut off inside a call keeps what there is", "[parser]") {
  const auto cut_off = [](const std::string& text, const AssistantParserOptions& options = {}) {
    const CutText cut({text}, 0, 1);
    AssistantParser parser(cut.tokenizer(), options);
    std::vector<AssistantDelta> out;
    for (const int32_t id : cut.sequences()[0]) parser.push(id, out);
    parser.finish(out);
    CHECK(parser.in_unclosed_call());
    const size_t num_deltas = out.size();
    parser.finish(out);  // once is enough
    CHECK(out.size() == num_deltas);
    Answer answer;
    for (const AssistantDelta& delta : out) add_delta(delta, answer);
    return answer.calls;
  };
  using Calls = std::vector<Answer::Call>;
  CHECK(cut_off(kSection + kCall).empty());
  CHECK(cut_off(kSection + kCall + "functions.get_wea").empty());
  CHECK(cut_off(kSection + kCall + "functions.f:0" + kArguments) ==
        Calls{{"functions.f:0", "f", ""}});
  CHECK(cut_off(kSection + kCall + "functions.f:0" + kArguments + "{\"a\": \"\xE4\xB8") ==
        Calls{{"functions.f:0", "f", "{\"a\": \"\uFFFD"}});
  const std::vector<ToolDeclaration> tools = {{"f"}, {"g"}};
  CHECK(cut_off(kSection + kCall + "3" + kArguments + "{\"a", {.tools = tools}).empty());

  const CutText closed({kSection + call("functions.f:0", "{}")}, 0, 1);
  AssistantParser parser(closed.tokenizer(), {});
  std::vector<AssistantDelta> out;
  for (const int32_t id : closed.sequences()[0]) parser.push(id, out);
  CHECK_FALSE(parser.in_unclosed_call());
}

TEST_CASE("markers out of place do not leak and lose no text", "[parser]") {
  CHECK(parse_all("a</think>b" + kCallEnd + "c" + kArguments + "d" + kSectionEnd + "e").content ==
        "abcde");
  CHECK(parse_all("a<|im_end|>b[EOS]c").content == "abc");
  // A section inside the call of another, a call inside a call.
  const Answer answer = parse_all(kSection + kCall + "functions.f:0" + kArguments + "{1" +
                                  kSection + call("functions.g:1", "{2}") + kCall + "junk" + kCall +
                                  "functions.h:2" + kArguments + "{3" + kSectionEnd + " tail");
  REQUIRE(answer.calls.size() == 3);
  CHECK(answer.calls[0].arguments == "{1");
  CHECK(answer.calls[1].arguments == "{2}");
  CHECK(answer.calls[2].arguments == "{3");
  CHECK(answer.content == " tail");
  // Thinking markers inside arguments are what the model writes there.
  CHECK(parse_all(kSection + call("functions.f:0", "{\"t\":\"<think>x</think>\"}"))
            .calls.at(0)
            .arguments == "{\"t\":\"<think>x</think>\"}");
  // Between calls they are noise like any text there.
  const Answer noisy =
      parse_all(kSection + "<think>x</think>y" + call("functions.f:0", "{}") + kSectionEnd);
  CHECK_FALSE(noisy.reasoning.has_value());
  CHECK(noisy.content.empty());
  // A second thinking part.
  const Answer twice = parse_all("<think>a</think>b<think>c</think>d");
  CHECK(twice.reasoning == "ac");
  CHECK(twice.content == "bd");
}

TEST_CASE("a marker spelt in text tokens is text", "[parser]") {
  const Tokenizer tokenizer = small_tokenizer();
  const auto feed = [&](const std::vector<std::pair<std::string, Tokenizer::Specials>>& parts) {
    Ids ids;
    for (const auto& [text, specials] : parts) tokenizer.encode_append(text, specials, ids);
    return parse_answer(tokenizer, {}, ids);
  };
  constexpr auto kText = Tokenizer::Specials::kAsText;
  constexpr auto kTokens = Tokenizer::Specials::kAsTokens;
  const Answer answer = feed({{"x<think>" + kSection, kText},
                              {kSection + kCall + "functions.echo:0" + kArguments, kTokens},
                              {"{\"text\":\"literal <|tool_call_end|> inside\"}", kText},
                              {kCallEnd + kSectionEnd, kTokens}});
  CHECK(answer.content == "x<think>" + kSection);
  CHECK(answer.calls.at(0).arguments == "{\"text\":\"literal <|tool_call_end|> inside\"}");
}

TEST_CASE("white space behind a section goes, other text stays", "[parser]") {
  const std::string section = kSection + call("functions.f:0", "{}") + kSectionEnd;
  CHECK(parse_all("a " + section + " \n").content == "a ");
  CHECK(parse_all(section + " \n" + section + "\n").content.empty());
  CHECK(parse_all(section + " \nb " + section + " c ").content == " \nb  c ");
  CHECK(parse_all(kSection + " noise " + call("functions.f:0", "{}") + " noise " + kSectionEnd)
            .content.empty());
}

TEST_CASE("plain completions are all content", "[parser]") {
  const std::string text =
      "<think>a</think>" + kSection + call("functions.f:0", "{}") + kSectionEnd;
  const AssistantParserOptions plain{.parse_tool_calls = false, .parse_reasoning = false};
  CHECK(parse_all(text, plain).content == text);
  CHECK_FALSE(parse_all(text, plain).reasoning.has_value());
  const Answer no_calls = parse_all(text, {.parse_tool_calls = false});
  CHECK(no_calls.reasoning == "a");
  CHECK(no_calls.content == text.substr(std::string("<think>a</think>").size()));
  const Answer no_reasoning = parse_all("<think>a</think>" + kSection + call("functions.f:0", "{}"),
                                        {.starts_in_reasoning = true, .parse_reasoning = false});
  CHECK(no_reasoning.content == "<think>a</think>");
  CHECK(no_reasoning.calls.size() == 1);
}

// --- stop strings -----------------------------------------------------------------------------

TEST_CASE("stop strings end the content wherever tokens are cut", "[parser][stop]") {
  const auto content = [](const std::string& text, std::vector<std::string> stop) {
    return parse_all(text, {.stop = {.strings = std::move(stop)}}).content;
  };
  CHECK(content("one STOP two", {"STOP"}) == "one ");
  CHECK(content("one STOP", {"STOP"}) == "one ");
  CHECK(content("one STO", {"STOP"}) == "one STO");
  CHECK(content("aaab", {"aab"}) == "a");
  CHECK(content("abcd", {"abcd", "bc"}) == "a");  // complete first
  CHECK(content("xabc", {"bc", "abc"}) == "x");   // the longest of those that end together
  CHECK(content("中文字", {"文"}) == "中");
  CHECK(content("a😀b", {"😀b"}) == "a");
  CHECK(content("abc", {""}) == "abc");
  CHECK(content("a\n\nb", {"x", "\n\n"}) == "a");
}

TEST_CASE("stop strings are not matched in thinking or calls, nor across them", "[parser][stop]") {
  const Answer answer = parse_all("<think>STOP</think>a ST" + kSection +
                                      call("functions.f:0", "{\"STOP\":1}") + kSectionEnd + "OP b",
                                  {.stop = {.strings = {"STOP"}}});
  CHECK(answer.reasoning == "STOP");
  CHECK(answer.content == "a STOP b");
  CHECK(answer.calls.at(0).arguments == "{\"STOP\":1}");
}

TEST_CASE("a stop string can be shown, and what follows is ignored", "[parser][stop]") {
  const CutText cut({"ab", "STOP", "cd", kSection}, 8, 2);
  for (const bool include : {false, true}) {
    for (const Ids& ids : cut.sequences()) {
      AssistantParser parser(cut.tokenizer(),
                             {.stop = {.strings = {"STOP", "never"}, .include_match = include}});
      std::vector<AssistantDelta> out;
      for (const int32_t id : ids) parser.push(id, out);
      parser.finish(out);
      Answer answer;
      for (const AssistantDelta& delta : out) add_delta(delta, answer);
      CHECK(answer.content == (include ? "abSTOP" : "ab"));
      CHECK(parser.stopped());
      CHECK(parser.matched_stop() == "STOP");
    }
  }
}

TEST_CASE("only what may begin a stop string is held back", "[parser][stop]") {
  const CutText cut({"ab", "cS", "Tx", "S"}, 0, 1);
  AssistantParser parser(cut.tokenizer(), {.stop = {.strings = {"STOP"}}});
  std::vector<std::string> shown;
  for (const int32_t id : cut.by_chunk()) {
    std::vector<AssistantDelta> out;
    parser.push(id, out);
    shown.push_back(out.empty() ? "" : out[0].text);
  }
  CHECK(shown == std::vector<std::string>{"ab", "c", "STx", ""});
  std::vector<AssistantDelta> out;
  parser.finish(out);
  REQUIRE(out.size() == 1);
  CHECK(out[0].text == "S");
}

}  // namespace
}  // namespace tandem::tests
