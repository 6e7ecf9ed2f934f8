// Anthropic's Messages. Each case that a client breaks on (serving/clients.md) is named after it.
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/anthropic/error_body.h"
#include "server/anthropic/messages_exchange.h"
#include "server/anthropic/messages_request.h"
#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;
using server::open_messages;

constexpr std::string_view kMessages = "/v1/messages?beta=true";

std::string messages_body(std::string_view members = "",
                          std::string_view messages = R"([{"role":"user","content":"hi"}])") {
  std::string body = R"({"model":"tiny","max_tokens":1000,"messages":)" + std::string(messages);
  if (!members.empty()) body.append(",").append(members);
  return body + "}";
}

json::value with(std::string_view members = "",
                 std::string_view messages = R"([{"role":"user","content":"hi"}])") {
  return json::parse(messages_body(members, messages));
}

constexpr std::string_view kThinking = R"("thinking":{"type":"adaptive"})";
constexpr std::string_view kThinkingAndTools =
    R"("thinking":{"type":"enabled","budget_tokens":1024},
       "tools":[{"name":"Bash","description":"Run it","input_schema":{"type":"object",
         "properties":{"command":{"type":"string"}}}},{"name":"Read","input_schema":{}}])";
constexpr std::string_view kThoughtTextCalls =
    "<think>I should run it.</think>Let me look.<|tool_calls_section_begin|>"
    "<|tool_call_begin|>functions.Bash:0<|tool_call_argument_begin|>{\"command\": \"ls \u2028\"}"
    "<|tool_call_end|><|tool_call_begin|>functions.Read:1<|tool_call_argument_begin|>{}"
    "<|tool_call_end|><|tool_calls_section_end|>";

server::MessagesRequest parsed(const json::value& body) {
  auto request = server::parse_messages_request(json::serialize(body), {.vocab_size = 512},
                                                server::MessagesUse::kGenerate);
  INFO(json::serialize(body));
  INFO((request ? "" : request.error().message));
  REQUIRE(request.ok());
  return std::move(*request);
}

// What the SDKs make of the events: message_start's message, updated in place. They dispatch on the
// `event:` line, so it has to be there and the same as `type`.
json::value accumulate(const std::vector<NamedEvent>& events) {
  json::object message;
  bool in_block = false;  // a block that is not stopped is lost to Claude Code
  bool stopped = false;
  for (const auto& [name, data] : events) {
    REQUIRE(data.at("type").as_string() == json::string_view(name));
    CHECK_FALSE(stopped);
    if (name == "message_start") {
      message = data.at("message").as_object();
      CHECK(message.at("content").as_array().empty());
      CHECK(message.at("usage").at("input_tokens").is_int64());
    } else if (name == "content_block_start") {
      CHECK_FALSE(std::exchange(in_block, true));
      json::array& content = message.at("content").as_array();
      CHECK(data.at("index").as_int64() == static_cast<int64_t>(content.size()));
      const json::value& block = data.at("content_block");
      if (block.at("type").as_string() == "tool_use") {
        CHECK(block.at("input").as_object().empty());
        content.push_back(block);
        content.back().as_object()["input"] = "";
      } else {
        // Node puts "undefined" before the text, Python fails, unless the empty string is there.
        CHECK(block.at(block.at("type").as_string()).as_string().empty());
        content.push_back(block);
      }
    } else if (name == "content_block_delta") {
      json::array& content = message.at("content").as_array();
      CHECK(data.at("index").as_int64() == static_cast<int64_t>(content.size()) - 1);
      const json::object& delta = data.at("delta").as_object();
      json::object& block = content.back().as_object();
      const json::string& type = delta.at("type").as_string();
      const auto append = [&](std::string_view key, std::string_view from) {
        block[key].as_string() += delta.at(from).as_string();
      };
      if (type == "text_delta") append("text", "text");
      if (type == "thinking_delta") append("thinking", "thinking");
      if (type == "signature_delta") append("signature", "signature");
      if (type == "input_json_delta") append("input", "partial_json");
    } else if (name == "content_block_stop") {
      CHECK(std::exchange(in_block, false));
      CHECK(data.at("index").as_int64() ==
            static_cast<int64_t>(message.at("content").as_array().size()) - 1);
      json::object& block = message.at("content").as_array().back().as_object();
      if (block.at("type") == "tool_use") block["input"] = json::parse(block["input"].as_string());
    } else if (name == "message_delta") {
      CHECK_FALSE(in_block);
      for (const auto& [key, value] : data.at("delta").as_object()) message[key] = value;
      message["usage"] = data.at("usage");
    } else if (name != "ping") {
      REQUIRE(name == "message_stop");
      stopped = true;
    }
  }
  CHECK(stopped);
  return message;
}

void check_same(const Playback& playback) {
  json::value streamed = accumulate(playback.events);
  json::value whole = playback.whole;
  CHECK(streamed.at("id").as_string().starts_with("msg_"));
  streamed.as_object()["id"] = whole.at("id");
  INFO(json::serialize(streamed));
  INFO(json::serialize(whole));
  CHECK(streamed == whole);
}

TEST_CASE("a messages stream adds up to the unstreamed answer, block for block",
          "[server][messages]") {
  const Playback playback =
      play_exchange(open_messages, with(kThinkingAndTools), kThoughtTextCalls);
  check_same(playback);
  const json::value& whole = playback.whole;
  CHECK(whole.at("type").as_string() == "message");
  CHECK(whole.at("role").as_string() == "assistant");
  CHECK(whole.at("stop_reason").as_string() == "tool_use");
  const json::array& content = whole.at("content").as_array();
  REQUIRE(content.size() == 4);
  CHECK(content[0].at("thinking").as_string() == "I should run it.");
  CHECK_FALSE(content[0].at("signature").as_string().empty());
  CHECK(content[1].at("text").as_string() == "Let me look.");
  CHECK(content[2].at("id").as_string() == "functions.Bash:0");
  CHECK(content[2].at("name").as_string() == "Bash");
  CHECK(content[2].at("input").at("command").as_string() == "ls \u2028");
  CHECK(content[3].at("input").as_object().empty());
}

TEST_CASE("messages usage tells cached from new input, and counts thinking", "[server][messages]") {
  const Playback playback = play_exchange(open_messages, with(kThinking), "<think>ab</think>cd");
  const json::value& usage = playback.whole.at("usage");
  CHECK(usage.at("input_tokens").as_int64() == 6);
  CHECK(usage.at("cache_read_input_tokens").as_int64() == 5);
  CHECK(usage.at("cache_creation_input_tokens").as_int64() == 0);  // an integer, not null
  CHECK(usage.at("output_tokens").as_int64() == 7);
  CHECK(usage.at("output_tokens_details").at("thinking_tokens").as_int64() == 4);
}

TEST_CASE("thinking blocks come only to clients that ask for them", "[server][messages]") {
  for (const std::string_view members : {"", R"("thinking":{"type":"disabled"})"}) {
    // No hexadecimal digits: the message's random id must not look like the thought.
    const Playback playback = play_exchange(open_messages, with(members), "<think>why</think>cd");
    check_same(playback);
    const json::array& content = playback.whole.at("content").as_array();
    REQUIRE(content.size() == 1);
    CHECK(content[0].at("text").as_string() == "cd");
    CHECK(playback.frames.find("why") == std::string::npos);
  }
}

TEST_CASE("messages say why they stopped", "[server][messages]") {
  const auto reason = [](std::string_view members, std::string_view answer, FinishReason end) {
    const Playback playback = play_exchange(open_messages, with(members), answer, {.reason = end});
    check_same(playback);
    return std::string(playback.whole.at("stop_reason").as_string());
  };
  CHECK(reason("", "abc", FinishReason::kStop) == "end_turn");
  CHECK(reason("", "abc", FinishReason::kLength) == "max_tokens");
  CHECK(reason(R"("stop_sequences":["b"])", "abc", FinishReason::kStop) == "stop_sequence");
  const Playback stopped =
      play_exchange(open_messages, with(R"("stop_sequences":["zz","c"])"), "abcd");
  CHECK(stopped.whole.at("stop_sequence").as_string() == "c");
  CHECK(stopped.whole.at("content").at(0).at("text").as_string() == "ab");
}

TEST_CASE("input that the model left unfinished is still an object", "[server][messages]") {
  const Playback playback =
      play_exchange(open_messages, with(kThinkingAndTools),
                    "<|tool_calls_section_begin|><|tool_call_begin|>functions.Bash:0"
                    "<|tool_call_argument_begin|>{\"comm",
                    {.reason = FinishReason::kLength});
  CHECK(playback.whole.at("stop_reason").as_string() == "max_tokens");
  CHECK(playback.whole.at("content").at(0).at("input").at("arguments").as_string() == "{\"comm");
}

TEST_CASE("disable_parallel_tool_use ends the answer at the first call", "[server][messages]") {
  const std::string members = std::string(kThinkingAndTools) +
                              R"(,"tool_choice":{"type":"auto","disable_parallel_tool_use":true})";
  const Playback playback = play_exchange(open_messages, with(members), kThoughtTextCalls);
  check_same(playback);
  CHECK(playback.whole.at("content").as_array().size() == 3);
  CHECK(playback.whole.at("stop_reason").as_string() == "tool_use");
}

TEST_CASE("an engine that fails in a messages stream is an error event", "[server][messages]") {
  const Playback failed =
      play_exchange(open_messages, with(), "par", {.reason = FinishReason::kError});
  CHECK(failed.events.back().name == "error");
  CHECK(failed.events.back().data.at("type").as_string() == "error");
  CHECK(failed.events.back().data.at("error").at("type").as_string() == "api_error");
  const Playback aborted =
      play_exchange(open_messages, with(), "par", {.reason = FinishReason::kAborted});
  CHECK(aborted.events.back().data.at("error").at("type").as_string() == "overloaded_error");
}

TEST_CASE("Claude Code's conversation: system in the middle, results by id in any order",
          "[server][messages]") {
  const auto request = parsed(with(std::string(kThinkingAndTools) + R"(,
      "system":[{"type":"text","text":"x-anthropic-billing-header: cc_version=1.d22;"},
                {"type":"text","text":"You are an agent.","cache_control":{"type":"ephemeral"}},
                {"type":"text","text":"\nMore."}])",
                                   R"([
      {"role":"user","content":[{"type":"text","text":"<system-reminder>"},
                                {"type":"text","text":"run it"}]},
      {"role":"system","content":"Available agents"},
      {"role":"assistant","content":[
        {"type":"thinking","thinking":"I should.","signature":"c2ln"},
        {"type":"redacted_thinking","data":"x"},
        {"type":"text","text":"Let me "},{"type":"text","text":"look."},
        {"type":"tool_use","id":"a","name":"Bash","input":{"command":"ls"}},
        {"type":"tool_use","id":"b","name":"Read","input":{}}]},
      {"role":"user","content":[
        {"type":"tool_result","tool_use_id":"b","content":[{"type":"text","text":"B1"},
          {"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBO"}}]},
        {"type":"tool_result","tool_use_id":"a","content":"no","is_error":true},
        {"type":"text","text":"go on"}]}])"));
  const auto& messages = request.chat.prompt.messages;
  REQUIRE(messages.size() == 7);
  CHECK(messages[0].role == "system");
  CHECK(messages[0].content == "You are an agent.\n\nMore.");
  CHECK(messages[1].content == "<system-reminder>\nrun it");
  CHECK(messages[2].role == "system");
  CHECK(messages[2].content == "Available agents");
  CHECK(messages[3].reasoning_content == "I should.");
  CHECK(messages[3].content == "Let me look.");
  REQUIRE(messages[3].tool_calls.size() == 2);
  CHECK(messages[3].tool_calls[0].arguments == R"({"command": "ls"})");
  CHECK(messages[4].role == "tool");
  CHECK(messages[4].tool_call_id == "b");
  CHECK(messages[4].content == "B1\n[image left out: this model reads text only]");
  CHECK(messages[5].content == "Error: no");
  CHECK(messages[6].role == "user");
  CHECK(messages[6].content == "go on");
  CHECK(request.shows_thinking);

  const RenderedPrompt prompt = render_chat(byte_tokenizer(), request.chat.prompt);
  CHECK(prompt.text.find("## Return of functions.Read:1\nB1") != std::string::npos);
  CHECK(prompt.text.find("## Return of functions.Bash:0\nError: no") != std::string::npos);
  CHECK(prompt.text.find("<think>I should.</think>Let me look.") != std::string::npos);
}

TEST_CASE("tools without a schema are left out, tools are declared as the model knows them",
          "[server][messages]") {
  const auto request = parsed(with(R"("tools":[
      {"type":"web_search_20250305","name":"web_search","max_uses":8},
      {"name":"Bash","description":"Run","cache_control":{"type":"ephemeral"},
       "input_schema":{"type":"object","$schema":"x"}}],"tool_choice":{"type":"auto"})"));
  REQUIRE(request.chat.tools.size() == 1);
  CHECK(request.chat.tool_calls_allowed);
  CHECK(request.chat.prompt.tools_json ==
        R"([{"function":{"description":"Run","name":"Bash",)"
        R"("parameters":{"$schema":"x","type":"object"}},"type":"function"}])");
  const auto none = parsed(with(R"("tools":[])"));
  CHECK_FALSE(none.chat.tool_calls_allowed);
  CHECK(none.chat.prompt.tools_json.empty());
  CHECK_FALSE(parsed(with(R"("tools":[{"name":"f","input_schema":{}}],
                             "tool_choice":{"type":"none"})"))
                  .chat.tool_calls_allowed);
}

TEST_CASE("calls can be demanded, formats fixed and thinking limited", "[server][messages]") {
  const std::string tools =
      R"("tools":[{"name":"f","input_schema":{}},{"name":"g","input_schema":{}}],)";
  CHECK(parsed(with(tools + R"("tool_choice":{"type":"any"})")).chat.call_required);
  const auto one = parsed(with(tools + R"("tool_choice":{"type":"tool","name":"g"})")).chat;
  CHECK(one.call_required);
  CHECK_FALSE(one.parallel_tool_calls);
  CHECK(one.callable_tools == std::vector<std::string>{"g"});
  const auto limited = parsed(with(R"("thinking":{"type":"enabled","budget_tokens":1024},
      "output_config":{"effort":"high",
        "format":{"type":"json_schema","schema":{"type":"object"}}})"));
  CHECK(limited.chat.thinking_budget == 1024);
  CHECK(parsed(with(R"("thinking":{"type":"disabled"})")).chat.thinking_budget == 0);
  CHECK(parsed(with(R"("output_config":{"effort":"low"})")).chat.thinking_budget == 2048);
  const auto by_kwargs = parsed(
      with(R"("chat_template_kwargs":{"enable_thinking":false,"preserve_thinking":true,"x":1})"));
  CHECK(by_kwargs.chat.thinking_budget == 0);
  CHECK(by_kwargs.chat.prompt.preserve_thinking);
  REQUIRE(limited.chat.format);
  CHECK(limited.chat.format->text == R"({"type":"object"})");
  CHECK(limited.chat.format->field == "output_config.format.schema");
}

TEST_CASE("a demanded call and a fixed format are kept to over the wire", "[server][messages]") {
  ServerFixture fixture(
      {.scripts = {{"schema", "<think>x</think>{\"a\": 1}"}, {"", "<think>x</think>No."}}});
  Client client(fixture);
  const json::value called =
      client
          .post(kMessages, messages_body(R"("tools":[{"name":"f","input_schema":{"type":"object",
                    "properties":{},"additionalProperties":false}}],
                    "tool_choice":{"type":"tool","name":"f"})"))
          .json();
  CHECK(called.at("stop_reason").as_string() == "tool_use");
  CHECK(called.at("content").at(0).at("name").as_string() == "f");
  CHECK(called.at("content").at(0).at("input").as_object().empty());
  const json::value formed =
      client
          .post(kMessages,
                messages_body(R"("output_config":{"format":{"type":"json_schema","schema":{
                    "type":"object","properties":{"a":{"type":"integer"}},"required":["a"],
                    "additionalProperties":false}}})",
                              R"([{"role":"user","content":"schema"}])"))
          .json();
  CHECK(json::parse(formed.at("content").at(0).at("text").as_string()) == json::parse("{\"a\":1}"));
}

TEST_CASE("arguments are an object however deep a request may be", "[server][messages]") {
  constexpr int kNumLevels = 60;
  std::string deep;
  for (int idx = 0; idx < kNumLevels; ++idx) deep += R"({"a":)";
  deep += "1" + std::string(kNumLevels, '}');
  ServerFixture fixture(
      {.scripts = {{"",
                    "<think>x</think><|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
                    "<|tool_call_argument_begin|>" +
                        deep + "<|tool_call_end|><|tool_calls_section_end|>"}}});
  const Response response = Client(fixture).post(
      kMessages, messages_body(R"("tools":[{"name":"f","input_schema":{"type":"object"}}])"));
  CHECK(response.status == 200);
  CHECK(response.body.find("\"input\":" + deep + "}") != std::string::npos);
}

struct Bad {
  std::string_view members;
  std::string_view messages;
  std::string_view named;
};

TEST_CASE("a wrong field of a messages request is named", "[server][messages]") {
  const std::string_view hi = R"([{"role":"user","content":"hi"}])";
  const std::vector<Bad> bad = {
      {R"("model":7)", hi, "model"},
      {R"("max_tokens":0)", hi, "max_tokens"},
      {R"("max_tokens":null)", hi, "max_tokens"},
      {R"("temperature":"hot")", hi, "temperature"},
      {R"("top_p":0)", hi, "top_p"},
      {R"("top_k":"a")", hi, "top_k"},
      {R"("stream":1)", hi, "stream"},
      {R"("stop_sequences":"x")", hi, "stop_sequences"},
      {R"("stop_sequences":[1])", hi, "stop_sequences"},
      {R"("system":7)", hi, "system"},
      {R"("system":[{"type":"text"}])", hi, "system[0].text"},
      {R"("metadata":1)", hi, "metadata"},
      {R"("output_config":1)", hi, "output_config"},
      {R"("thinking":{"type":"maybe"})", hi, "thinking.type"},
      {R"("thinking":{"type":"enabled","budget_tokens":-1})", hi, "thinking.budget_tokens"},
      {R"("chat_template_kwargs":{"thinking":"no"})", hi, "chat_template_kwargs.thinking"},
      {R"("tools":{})", hi, "tools"},
      {R"("tools":[1])", hi, "tools[0]"},
      {R"("tools":[{"input_schema":{}}])", hi, "tools[0].name"},
      {R"("tools":[{"name":"a","input_schema":1}])", hi, "tools[0].input_schema"},
      {R"("tool_choice":"auto")", hi, "tool_choice"},
      {R"("tool_choice":{"type":"maybe"})", hi, "tool_choice.type"},
      {R"("tool_choice":{"type":"any"})", hi, "tool_choice.type"},
      {R"("tool_choice":{"type":"tool","name":"f"})", hi, "tool_choice.name"},
      {R"("output_config":{"effort":1})", hi, "output_config.effort"},
      {R"("output_config":{"effort":"some"})", hi, "output_config.effort"},
      {R"("output_config":{"format":{"type":"yaml"}})", hi, "output_config.format.type"},
      {R"("output_config":{"format":{"type":"json_schema"}})", hi, "output_config.format.schema"},
      {R"("thread":{"type":"create"})", hi, "thread"},
      {"", "[]", "messages"},
      {"", "{}", "messages"},
      {"", "[1]", "messages[0]"},
      {"", R"([{"role":"tool","content":"x"}])", "messages[0].role"},
      {"", R"([{"role":"user"}])", "messages[0].content"},
      {"", R"([{"role":"user","content":7}])", "messages[0].content"},
      {"", R"([{"role":"user","content":["x"]}])", "messages[0].content[0]"},
      {"", R"([{"role":"user","content":[{"text":"x"}]}])", "messages[0].content[0].type"},
      {"", R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {"", R"([{"role":"user","content":[{"type":"tool_result"}]}])",
       "messages[0].content[0].tool_use_id"},
      {"",
       R"([{"role":"assistant","content":[
          {"type":"tool_use","id":"a","name":"b","input":1}]}])",
       "messages[0].content[0].input"},
  };
  for (const Bad& each : bad) {
    auto refused =
        server::parse_messages_request(messages_body(each.members, each.messages),
                                       {.vocab_size = 512}, server::MessagesUse::kGenerate);
    INFO(each.members << " " << each.messages);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().status == 400);
    CHECK(refused.error().param == each.named);
    CHECK(refused.error().message.starts_with(each.named));
  }
  const auto unnamed =
      server::parse_messages_request(messages_body(R"("tool_choice":{"type":"tool","name":7})"),
                                     {.vocab_size = 512}, server::MessagesUse::kGenerate);
  REQUIRE_FALSE(unnamed.ok());
  CHECK(unnamed.error().message == "tool_choice.name: expected a string, got 7");
  CHECK(server::parse_messages_request(R"({"messages":[{"role":"user","content":"hi"}]})", {},
                                       server::MessagesUse::kCount)
            .ok());
}

TEST_CASE("errors have Anthropic's form, whoever finds them", "[server][messages]") {
  ServerSetup setup;
  setup.options.api_keys = {"sk-a"};
  ServerFixture fixture(setup);
  const auto check = [&](const Response& response, int status, std::string_view type) {
    INFO(response.body);
    CHECK(response.status == status);
    const json::value body = response.json();
    CHECK(body.at("type").as_string() == "error");
    CHECK(body.at("error").at("type").as_string() == json::string_view(type));
    CHECK_FALSE(body.at("error").at("message").as_string().empty());
  };
  const std::vector<std::string> key = {"x-api-key: sk-a"};
  check(Client(fixture).post(kMessages, messages_body()), 401, "authentication_error");
  check(Client(fixture).post(kMessages, messages_body(),
                             {"x-api-key: sk-a", "Content-Type: text/plain"}),
        415, "invalid_request_error");
  Client client(fixture);
  check(client.post(kMessages, "{", key), 400, "invalid_request_error");
  check(client.post(kMessages, messages_body(R"("model":"gpt")"), key), 404, "not_found_error");
  const std::string long_text =
      R"([{"role":"user","content":")" + std::string(9000, 'a') + R"("}])";
  const Response too_long = client.post(kMessages, messages_body("", long_text), key);
  check(too_long, 400, "invalid_request_error");
  const json::string message(too_long.json().at("error").at("message").as_string());
  INFO(std::string(message));
  CHECK(message.starts_with("prompt is too long: 9"));
  CHECK(message.ends_with(" tokens > 8192 maximum"));

  ServerFixture loading({.ready = false});
  const Response early = Client(loading).post(kMessages, messages_body());
  check(early, 503, "overloaded_error");
  CHECK(early.headers.contains("retry-after"));
}

TEST_CASE("messages go over the wire, streamed, not, and counted", "[server][messages]") {
  ServerFixture fixture({.scripts = {{"tool-question", std::string(kThoughtTextCalls)},
                                     {"## Return of", "<think>Fine.</think>All done."},
                                     {"", "<think>Hm.</think>Hello!"}}});
  Client client(fixture);
  const std::vector<std::string> headers = {"anthropic-version: 2023-06-01",
                                            "anthropic-beta: claude-code-20250219"};
  const std::string question =
      R"([{"role":"user","content":[{"type":"text","text":"tool-question"}]}])";
  // max_tokens: 32000 comes whatever the server's limit is: clamped, not refused.
  const std::string body = R"({"max_tokens":32000,"context_management":{"edits":[]},"messages":)" +
                           question + "," + std::string(kThinkingAndTools);
  const json::value whole = client.post(kMessages, body + "}", headers).json();
  const Response streamed = client.post(kMessages, body + R"(,"stream":true})", headers);
  CHECK(streamed.headers.at("content-type").starts_with("text/event-stream"));
  json::value message = accumulate(named_events(streamed.body));
  CHECK(message.at("content") == whole.at("content"));

  // The blocks go back as they came, the results in the order in which they were ready.
  const std::string next =
      R"({"max_tokens":100,"messages":[{"role":"user","content":"tool-question"},)"
      R"({"role":"assistant","content":)" +
      json::serialize(whole.at("content")) +
      R"(},{"role":"user","content":[
          {"type":"tool_result","tool_use_id":"functions.Read:1","content":"R"},
          {"type":"tool_result","tool_use_id":"functions.Bash:0","content":"B"}]}],)" +
      std::string(kThinkingAndTools) + "}";
  const json::value answer = client.post(kMessages, next, headers).json();
  CHECK(answer.at("content").at(1).at("text").as_string() == "All done.");
  CHECK(answer.at("stop_reason").as_string() == "end_turn");
  // The whole first turn, its generated tokens included, was found in the KV pages.
  CHECK(answer.at("usage").at("cache_read_input_tokens").as_int64() >= 64);

  const json::value counted =
      client
          .post("/v1/messages/count_tokens?beta=true",
                R"({"messages":[{"role":"user","content":"string"}],"tools":[]})", headers)
          .json();
  const json::value asked =
      client.post(kMessages, messages_body("", R"([{"role":"user","content":"string"}])"), headers)
          .json();
  CHECK(counted.at("input_tokens").as_int64() ==
        asked.at("usage").at("input_tokens").as_int64() +
            asked.at("usage").at("cache_read_input_tokens").as_int64());
}

TEST_CASE("hidden thinking keeps a stream alive with pings", "[server][messages]") {
  ServerSetup setup{.scripts = {{"", "<think>" + std::string(40, 'a') + "</think>done"}}};
  setup.options.sse_keep_alive_interval = std::chrono::milliseconds(20);
  ServerFixture fixture(setup);
  fixture.model.set_step_time(std::chrono::milliseconds(5));
  const Response response = Client(fixture).post(kMessages, messages_body(R"("stream":true)"));
  CHECK(response.body.find("event: ping\n") != std::string::npos);
  CHECK(accumulate(named_events(response.body)).at("content").at(0).at("text") == "done");
}

}  // namespace
}  // namespace tandem::tests
