// What a client may change between two turns without losing the KV pages of the first: the prompt's
// tokens stay the same (serving/clients.md, point 9 and Claude Code).
#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "server/anthropic/messages_exchange.h"
#include "server/chat/argument_forms.h"
#include "server/openai/chat_completion.h"
#include "server/responses/responses_exchange.h"
#include "tests/server/exchange_player.h"
#include "tests/server/scripted_model.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;
using server::ArgumentForms;
using server::open_chat_completion;
using server::open_messages;
using server::open_response;

using Ids = std::vector<int32_t>;

Ids prompt(server::OpenExchange open, const server::ServedModel& model, const std::string& body) {
  return prompt_of(open, model, json::parse(body));
}

std::string chat(std::string_view arguments,
                 std::string_view tool = R"({"type":"function","function":{"name":"f",
                     "parameters":{"type":"object","properties":{"a":{},"b":{}}}}})") {
  return R"({"tools":[)" + std::string(tool) + R"(],"messages":[{"role":"user","content":"go"},
      {"role":"assistant","content":"","tool_calls":[{"id":"x","type":"function",
       "function":{"name":"f","arguments":)" +
         std::string(arguments) + R"(}}]},{"role":"tool","tool_call_id":"x","content":"r"}]})";
}

TEST_CASE("arguments of any spacing and key order are one prompt", "[server][prefix]") {
  const server::ServedModel model = byte_model();
  const Ids first = prompt(open_chat_completion, model,
                           chat(R"("{\"b\":1,\"a\":{\"d\":[1,2],\"c\":\"\\u00e9\"}}")"));
  for (const std::string_view arguments :
       {R"("{\"b\": 1, \"a\": {\"d\": [1, 2], \"c\": \"é\"}}")",
        R"("{\"a\":{\"c\":\"é\",\"d\":[1,2]},\"b\":1}")", R"({"a":{"c":"é","d":[1,2]},"b":1})",
        R"(" { \"b\" : 1 ,\n \"a\":{ \"d\":[1 ,2],\"c\":\"é\"} } ")"}) {
    INFO(arguments);
    CHECK(prompt(open_chat_completion, model, chat(arguments)) == first);
  }
  CHECK(prompt(open_chat_completion, model, chat(R"("{\"b\":2}")")) != first);
  // Met by nobody before, arguments are written as the model writes them.
  const std::string text = byte_tokenizer().decode(first);
  CHECK(text.find("{\"b\": 1, \"a\": {\"d\": [1, 2], \"c\": \"\u00e9\"}}") != std::string::npos);
}

TEST_CASE("a tool's key order and cache_control do not matter", "[server][prefix]") {
  const server::ServedModel model = byte_model();
  const Ids first = prompt(open_chat_completion, model, chat("\"{}\""));
  CHECK(first == prompt(open_chat_completion, model, chat("\"{}\"", R"({"function":{"parameters":
        {"properties":{"b":{},"a":{}},"type":"object"},"name":"f"},
        "cache_control":{"type":"ephemeral"},"type":"function"})")));
}

TEST_CASE("Claude Code's moving parts leave the prompt alone", "[server][prefix]") {
  const server::ServedModel model = byte_model();
  const auto body = [](std::string_view header, std::string_view system_mark,
                       std::string_view user_mark, std::string_view input,
                       std::string_view schema) {
    return R"({"max_tokens":9,"system":[{"type":"text","text":"x-anthropic-billing-header: cc=)" +
           std::string(header) + R"("},{"type":"text","text":"You are an agent.")" +
           std::string(system_mark) + R"(}],"tools":[{"name":"Bash","input_schema":)" +
           std::string(schema) + R"(}],"messages":[{"role":"user","content":"run it"},
            {"role":"assistant","content":[{"type":"tool_use","id":"functions.Bash:0",
              "name":"Bash","input":)" +
           std::string(input) +
           R"(}]},{"role":"user","content":[{"type":"tool_result","content":"ok",
              "tool_use_id":"functions.Bash:0")" +
           std::string(user_mark) + "}]}]}";
  };
  constexpr std::string_view kMark = R"(,"cache_control":{"type":"ephemeral"})";
  const Ids first = prompt(open_messages, model,
                           body("d22", kMark, kMark, R"({"a":1,"b":2})", R"({"x":1,"y":2})"));
  CHECK(first ==
        prompt(open_messages, model, body("a0f", "", "", R"({ "b":2,"a":1})", R"({"y":2,"x":1})")));
  const std::string text = byte_tokenizer().decode(first);
  CHECK(text.find("billing") == std::string::npos);
  CHECK(text.find("cache_control") == std::string::npos);
  CHECK(text.find("<|im_middle|>You are an agent.<|im_end|>") != std::string::npos);
}

TEST_CASE("one conversation is one prompt in every dialect", "[server][prefix]") {
  const server::ServedModel model = byte_model();
  const Ids chat_ids = prompt(open_chat_completion, model, R"({
      "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"a":1}}}],
      "messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"go"},
        {"role":"assistant","content":"Let me see.","reasoning_content":"Hm.","tool_calls":[
          {"id":"functions.f:0","type":"function",
           "function":{"name":"f","arguments":"{\"a\":1}"}}]},
        {"role":"tool","tool_call_id":"functions.f:0","content":"r"}]})");
  const Ids messages_ids = prompt(open_messages, model, R"({"max_tokens":9,"system":"Be brief.",
      "tools":[{"name":"f","description":"d","input_schema":{"a":1}}],
      "messages":[{"role":"user","content":"go"},
        {"role":"assistant","content":[{"type":"thinking","thinking":"Hm.","signature":""},
          {"type":"text","text":"Let me see."},
          {"type":"tool_use","id":"functions.f:0","name":"f","input":{"a":1}}]},
        {"role":"user","content":[
          {"type":"tool_result","tool_use_id":"functions.f:0","content":"r"}]}]})");
  const Ids responses_ids = prompt(open_response, model, R"({"instructions":"Be brief.",
      "tools":[{"type":"function","name":"f","description":"d","parameters":{"a":1}}],
      "input":[{"role":"user","content":"go"},
        {"type":"reasoning","content":[{"type":"reasoning_text","text":"Hm."}]},
        {"role":"assistant","content":[{"type":"output_text","text":"Let me see."}]},
        {"type":"function_call","call_id":"functions.f:0","name":"f","arguments":"{\"a\": 1}"},
        {"type":"function_call_output","call_id":"functions.f:0","output":"r"}]})");
  CHECK(chat_ids == messages_ids);
  CHECK(chat_ids == responses_ids);
}

// The next turn's prompt begins with this turn's prompt and what was generated, whatever the
// model's spacing and whatever the client made of it.
TEST_CASE("what was generated is found again in the next turn", "[server][prefix]") {
  const std::string said =
      "<think>Hm.</think>See.<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
      "<|tool_call_argument_begin|>{\"b\":  1,\"a\": [\"x\" ]}<|tool_call_end|>"
      "<|tool_calls_section_end|>";
  const std::string tools = R"("tools":[{"type":"function","function":{"name":"f"}}])";
  const std::string user = R"({"role":"user","content":"go"})";
  for (const std::string_view arguments :
       {R"("{\"b\":  1,\"a\": [\"x\" ]}")", R"("{\"b\":1,\"a\":[\"x\"]}")",
        R"("{\"a\": [\"x\"], \"b\": 1}")", R"({"a":["x"],"b":1})"}) {
    const server::ServedModel model = byte_model();
    const std::string first = "{" + tools + R"(,"messages":[)" + user + "]}";
    play_exchange(open_chat_completion, model, json::parse(first), said);
    Ids expected = prompt(open_chat_completion, model, first);
    byte_tokenizer().encode_append(said, Tokenizer::Specials::kAsTokens, expected);
    const Ids next =
        prompt(open_chat_completion, model,
               "{" + tools + R"(,"messages":[)" + user +
                   R"(,{"role":"assistant","reasoning_content":"Hm.","content":"See.",
                    "tool_calls":[{"id":"functions.f:0","function":{"name":"f","arguments":)" +
                   std::string(arguments) +
                   R"(}}]},{"role":"tool","tool_call_id":"functions.f:0","content":"r"}]})");
    INFO(arguments);
    REQUIRE(next.size() > expected.size());
    CHECK(std::equal(expected.begin(), expected.end(), next.begin()));
  }
}

TEST_CASE("thinking is kept in the open tool loop and dropped before, unless asked to stay",
          "[server][prefix]") {
  server::ServedModel model = byte_model();
  const std::string messages = R"("messages":[{"role":"user","content":"q"},
      {"role":"assistant","reasoning_content":"OLD","content":"a"},
      {"role":"user","content":"go"},
      {"role":"assistant","reasoning":"NEW","content":null,"tool_calls":[
        {"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
      {"role":"tool","tool_call_id":"1","content":"r"}])";
  const auto text = [&](const std::string& extra) {
    return byte_tokenizer().decode(
        prompt(open_chat_completion, model, "{" + messages + extra + "}"));
  };
  CHECK(text("").find("NEW") != std::string::npos);
  CHECK(text("").find("OLD") == std::string::npos);
  CHECK(text(R"(,"preserve_thinking":true)").find("OLD") != std::string::npos);
  model.preserve_thinking = true;  // the server's flag; a request may still say no
  CHECK(text("").find("OLD") != std::string::npos);
  CHECK(text(R"(,"preserve_thinking":false)").find("OLD") == std::string::npos);
}

TEST_CASE("the server's flag keeps thinking for requests that do not say", "[server][prefix]") {
  ServerSetup setup;
  setup.options.preserve_thinking = true;
  ServerFixture fixture(setup);
  const json::value rendered =
      Client(fixture)
          .post("/apply-template", R"({"messages":[{"role":"user","content":"q"},
              {"role":"assistant","reasoning_content":"OLD","content":"a"}]})")
          .json();
  CHECK(rendered.at("prompt").as_string().find("OLD") != json::string::npos);
}

TEST_CASE("forms of arguments: learnt ones win, what is no JSON is left, memory is bounded",
          "[server][prefix]") {
  ArgumentForms forms(200);
  CHECK(forms.known_form(R"({"a":1})") == R"({"a": 1})");
  forms.learn(R"({ "a":1 })");
  CHECK(forms.known_form(R"({"a": 1})") == R"({ "a":1 })");
  CHECK(forms.known_form("not json") == "not json");
  CHECK(forms.known_form(R"({"a":1} x)") == R"({"a":1} x)");
  CHECK(forms.known_form(R"({"n":123456789012345678901234567890})") ==
        R"({"n": 123456789012345678901234567890})");
  // The last of two equal keys counts, at the place of the first.
  CHECK(forms.known_form(R"({"z":1,"y":2,"z":3})") == R"({"z": 3, "y": 2})");
  for (int idx = 0; idx < 50; ++idx) {
    forms.known_form("{\"filler\":" + std::to_string(idx) + "}");
  }
  CHECK(forms.known_form(R"({"a":1})") == R"({"a": 1})");  // forgotten, and made anew
}

}  // namespace
}  // namespace tandem::tests
