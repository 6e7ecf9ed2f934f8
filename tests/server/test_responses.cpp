// The Responses API. Each case that a client breaks on (serving/clients.md) is named after it.
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/responses/responses_exchange.h"
#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;
using server::open_response;

constexpr std::string_view kTools = R"("tools":[
    {"type":"function","name":"exec_command","description":"Run","strict":false,
     "parameters":{"type":"object","properties":{"cmd":{"type":"string"}}}},
    {"type":"namespace","name":"multi_agent_v1","description":"Agents","tools":[
      {"type":"function","name":"close_agent","parameters":{"type":"object"}}]},
    {"type":"custom","name":"apply_patch","description":"Edit",
     "format":{"type":"grammar","syntax":"lark","definition":"start: patch"}},
    {"type":"web_search","external_web_access":false},
    {"type":"tool_search","execution":"client","parameters":{}}])";

constexpr std::string_view kThoughtTextCalls =
    "<think>Hm.</think>Let me see.<|tool_calls_section_begin|>"
    "<|tool_call_begin|>functions.exec_command:0<|tool_call_argument_begin|>{\"cmd\": \"ls\"}"
    "<|tool_call_end|><|tool_call_begin|>functions.multi_agent_v1__close_agent:1"
    "<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_call_begin|>functions.apply_patch:2<|tool_call_argument_begin|>"
    "{\"input\": \"*** Begin\\n\"}<|tool_call_end|><|tool_calls_section_end|>";

json::value with(std::string_view members = "", std::string_view input = "\"hi\"") {
  std::string body = R"({"model":"tiny","input":)" + std::string(input);
  if (!members.empty()) body.append(",").append(members);
  return json::parse(body + "}");
}

server::ResponsesRequest parsed(const json::value& body) {
  auto request = server::parse_responses_request(json::serialize(body), {.vocab_size = 512});
  INFO(json::serialize(body));
  INFO((request ? "" : request.error().message));
  REQUIRE(request.ok());
  return std::move(*request);
}

// What the SDKs' stream helpers insist on: created first, items and parts added before their
// deltas, indices everywhere, one response id, and a done item equal to what its deltas add up to.
json::value accumulate(const std::vector<NamedEvent>& events) {
  REQUIRE(events.size() >= 3);
  CHECK(events[0].name == "response.created");
  CHECK(events[1].name == "response.in_progress");
  const json::value& response_id = events[0].data.at("response").at("id");
  std::map<int64_t, json::object> items;
  std::map<int64_t, std::string> texts;
  std::map<int64_t, bool> has_part;
  json::value response;
  int64_t sequence_number = 0;
  for (const auto& [name, data] : events) {
    INFO(json::serialize(data));
    REQUIRE(data.at("type").as_string() == json::string_view(name));
    CHECK(data.at("sequence_number").as_int64() == sequence_number++);
    CHECK(response.is_null());  // nothing behind the end
    if (data.as_object().contains("response")) {
      CHECK(data.at("response").at("id") == response_id);
      CHECK(data.at("response").at("object").as_string() == "response");
      if (name != "response.created" && name != "response.in_progress") {
        response = data.at("response");
      }
      continue;
    }
    const int64_t item_idx = data.at("output_index").as_int64();
    if (name == "response.output_item.added") {
      CHECK(item_idx == static_cast<int64_t>(items.size()));
      items[item_idx] = data.at("item").as_object();
      continue;
    }
    REQUIRE(items.contains(item_idx));
    if (name == "response.output_item.done") {
      const json::object& item = data.at("item").as_object();
      CHECK(item.at("id") == items[item_idx].at("id"));
      if (has_part[item_idx]) {
        CHECK(item.at("content").at(0).at("text").as_string() ==
              json::string_view(texts[item_idx]));
      } else {
        const bool is_custom = item.at("type") == "custom_tool_call";
        CHECK(item.at(is_custom ? "input" : "arguments").as_string() ==
              json::string_view(texts[item_idx]));
      }
      items[item_idx] = item;
      continue;
    }
    CHECK(data.at("item_id") == items[item_idx].at("id"));
    if (name.ends_with("_text.delta") || name.ends_with("_text.done") ||
        name.starts_with("response.content_part.")) {
      CHECK(data.at("content_index").as_int64() == 0);
      if (name == "response.content_part.added") {
        CHECK(data.at("part").at("text").as_string().empty());
        has_part[item_idx] = true;
      }
      CHECK(has_part[item_idx]);
    }
    if (name.ends_with(".delta")) texts[item_idx] += std::string(data.at("delta").as_string());
    if (name.ends_with("_text.done")) {
      CHECK(data.at("text").as_string() == json::string_view(texts[item_idx]));
    }
  }
  REQUIRE(response.is_object());
  const json::array& output = response.at("output").as_array();
  REQUIRE(output.size() == items.size());
  for (size_t idx = 0; idx < output.size(); ++idx) {
    CHECK(output[idx] == items[static_cast<int64_t>(idx)]);
    const bool may_be_cut = idx + 1 == output.size() && response.at("status") != "completed";
    if (!may_be_cut) CHECK(output[idx].at("status").as_string() == "completed");
  }
  return response;
}

void forget_ids(json::value& response) {
  response.as_object().erase("id");
  for (json::value& item : response.at("output").as_array()) item.as_object().erase("id");
}

// The response that both forms say.
json::value check_same(const Playback& playback) {
  json::value streamed = accumulate(playback.events);
  json::value whole = playback.whole;
  forget_ids(streamed);
  forget_ids(whole);
  INFO(json::serialize(streamed));
  INFO(json::serialize(whole));
  CHECK(streamed == whole);
  return whole;
}

TEST_CASE("a response stream adds up to the unstreamed response, item for item",
          "[server][responses]") {
  const json::value response =
      check_same(play_exchange(open_response, with(kTools), kThoughtTextCalls));
  CHECK(response.at("status").as_string() == "completed");
  CHECK(response.at("incomplete_details").is_null());
  const json::array& output = response.at("output").as_array();
  REQUIRE(output.size() == 5);
  CHECK(output[0].at("type").as_string() == "reasoning");
  CHECK(output[0].at("summary").as_array().empty());
  CHECK(output[0].at("encrypted_content").is_null());
  CHECK(output[0].at("content").at(0).at("type").as_string() == "reasoning_text");
  CHECK(output[0].at("content").at(0).at("text").as_string() == "Hm.");
  CHECK(output[1].at("role").as_string() == "assistant");
  CHECK(output[1].at("content").at(0).at("text").as_string() == "Let me see.");
  CHECK(output[1].at("content").at(0).at("annotations").as_array().empty());
  CHECK(output[2].at("type").as_string() == "function_call");
  CHECK(output[2].at("call_id").as_string() == "functions.exec_command:0");
  CHECK(output[2].at("arguments").as_string() == R"({"cmd": "ls"})");
  CHECK_FALSE(output[2].as_object().contains("namespace"));
}

TEST_CASE("Codex: a call in a namespace names both, a custom tool gets its text",
          "[server][responses]") {
  const json::value response =
      check_same(play_exchange(open_response, with(kTools), kThoughtTextCalls));
  const json::value& spaced = response.at("output").at(3);
  CHECK(spaced.at("type").as_string() == "function_call");
  CHECK(spaced.at("name").as_string() == "close_agent");
  CHECK(spaced.at("namespace").as_string() == "multi_agent_v1");
  const json::value& custom = response.at("output").at(4);
  CHECK(custom.at("type").as_string() == "custom_tool_call");
  CHECK(custom.at("name").as_string() == "apply_patch");
  CHECK(custom.at("input").as_string() == "*** Begin\n");
  CHECK_FALSE(custom.as_object().contains("arguments"));
}

TEST_CASE("Codex: completed has an id and usage with total_tokens", "[server][responses]") {
  const Playback playback =
      play_exchange(open_response, with(), "<think>ab</think>cd", {.cached_tokens = 5});
  const json::value& completed = playback.events.back().data.at("response");
  CHECK(playback.events.back().name == "response.completed");
  CHECK(completed.at("id").as_string().starts_with("resp_"));
  const json::value& usage = completed.at("usage");
  CHECK(usage.at("input_tokens").as_int64() == 11);
  CHECK(usage.at("input_tokens_details").at("cached_tokens").as_int64() == 5);
  CHECK(usage.at("output_tokens").as_int64() == 7);
  CHECK(usage.at("output_tokens_details").at("reasoning_tokens").as_int64() == 4);
  CHECK(usage.at("total_tokens").as_int64() == 18);
}

TEST_CASE("a response that ran out of tokens is incomplete and says why", "[server][responses]") {
  const json::value response =
      check_same(play_exchange(open_response, with(), "abc", {.reason = FinishReason::kLength}));
  CHECK(response.at("status").as_string() == "incomplete");
  CHECK(response.at("incomplete_details").at("reason").as_string() == "max_output_tokens");
}

TEST_CASE("the last item of an incomplete response is incomplete, where it is cut",
          "[server][responses]") {
  const auto last_of = [](std::string_view answer) {
    const json::value response = check_same(
        play_exchange(open_response, with(kTools), answer, {.reason = FinishReason::kLength}));
    CHECK(response.at("status").as_string() == "incomplete");
    return response.at("output").as_array().back();
  };
  CHECK(last_of("<think>Hm").at("status").as_string() == "incomplete");
  CHECK(last_of("<think>Hm.</think>Let me").at("status").as_string() == "incomplete");
  const std::string calls = "<|tool_calls_section_begin|><|tool_call_begin|>functions.";
  const std::string arguments = ":0<|tool_call_argument_begin|>";
  const json::value call = last_of(calls + "exec_command" + arguments + R"({"cmd": "l)");
  CHECK(call.at("status").as_string() == "incomplete");
  CHECK(call.at("arguments").as_string() == R"({"cmd": "l)");
  // What ran out came behind it.
  const json::value whole = last_of(calls + "exec_command" + arguments + "{}<|tool_call_end|>");
  CHECK(whole.at("status").as_string() == "completed");
  // A custom tool gets the text that there is, without what is around it.
  const std::vector<std::pair<std::string, std::string>> inputs = {
      {R"({"input": "*** Begin\n+)", "*** Begin\n+"},
      {R"({"input": "a\)", "a"},
      {R"({"input": "a\u00e)", "a"},
      {R"({"input": "a\ud83d\ude0)", "a"},
      {R"({"input": "a\ud83d\ude00)", "a\U0001f600"},
      {R"({"input": "a\\)", "a\\"},
      {R"({"input": "a")", "a"},
      {R"({"input": "a"})", "a"},
      {R"({"inp)", ""},
      {"{", ""},
      {"*** Begin", "*** Begin"}};
  for (const auto& [text, input] : inputs) {
    const json::value custom = last_of(calls + "apply_patch" + arguments + text);
    CHECK(custom.at("status").as_string() == "incomplete");
    CHECK(custom.at("input").as_string() == json::string_view(input));
  }
}

TEST_CASE("a failing engine ends with error and response.failed", "[server][responses]") {
  const Playback playback =
      play_exchange(open_response, with(), "par", {.reason = FinishReason::kError});
  REQUIRE(playback.events.size() >= 2);
  CHECK(playback.events[playback.events.size() - 2].name == "error");
  CHECK(playback.events.back().name == "response.failed");
  const json::value& response = playback.events.back().data.at("response");
  CHECK(response.at("status").as_string() == "failed");
  CHECK(response.at("error").at("code").as_string() == "engine_failed");
  CHECK(response.at("output").at(0).at("status").as_string() == "incomplete");
}

TEST_CASE("calls can be demanded and formats fixed in a response", "[server][responses]") {
  const std::string tools = R"("tools":[{"type":"function","name":"f"}],)";
  CHECK(parsed(with(tools + R"("tool_choice":"required")")).chat.call_required);
  CHECK(
      parsed(with(tools + R"("tool_choice":{"type":"function","name":"f"})")).chat.callable_tools ==
      std::vector<std::string>{"f"});
  const auto formed = parsed(with(R"("text":{"format":{"type":"json_schema","name":"x",
      "strict":true,"schema":{"type":"object"}},"verbosity":"low"})"));
  REQUIRE(formed.chat.format);
  CHECK(formed.chat.format->text == R"({"type":"object"})");
  CHECK(parsed(with(R"("text":{"format":{"type":"json_object"}})")).chat.format);
  CHECK_FALSE(parsed(with(R"("text":{"format":{"type":"text"}})")).chat.format);
  CHECK(parsed(with(R"("reasoning":{"effort":"low"})")).chat.thinking_budget == 2048);
  const auto by_kwargs =
      parsed(with(R"("chat_template_kwargs":{"thinking":false,"preserve_thinking":true})"));
  CHECK(by_kwargs.chat.thinking_budget == 0);
  CHECK(by_kwargs.chat.prompt.preserve_thinking);
}

TEST_CASE("a tool of any kind can be chosen by its name", "[server][responses]") {
  const auto chosen = [](const std::string& choice) {
    const auto request = parsed(with(std::string(kTools) + R"(,"tool_choice":)" + choice));
    CHECK(request.chat.call_required);
    return request.chat.callable_tools;
  };
  using Names = std::vector<std::string>;
  CHECK(chosen(R"({"type":"custom","name":"apply_patch"})") == Names{"apply_patch"});
  CHECK(chosen(R"({"type":"function","name":"close_agent","namespace":"multi_agent_v1"})") ==
        Names{"multi_agent_v1__close_agent"});
  CHECK(chosen(R"({"type":"allowed_tools","mode":"required","tools":[
            {"type":"custom","name":"apply_patch"},{"type":"function","name":"exec_command"},
            {"type":"function","name":"close_agent","namespace":"multi_agent_v1"}]})") ==
        Names{"apply_patch", "exec_command", "multi_agent_v1__close_agent"});
  const auto got = [](const std::string& choice) {
    const auto refused = server::parse_responses_request(
        json::serialize(with(std::string(kTools) + R"(,"tool_choice":)" + choice)),
        {.vocab_size = 512});
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().param == "tool_choice");
    return refused.error().message.substr(refused.error().message.rfind(", got ") + 2);
  };
  CHECK(got(R"({"type":"custom","name":"rename"})") == "got \"rename\"");
  CHECK(got(R"({"type":"function","name":"f","namespace":"n"})") == "got \"n__f\"");
  CHECK(got(R"({"type":"web_search"})") == "got \"web_search\"");
  CHECK(got(R"({"type":"allowed_tools","mode":"any time","tools":[
            {"type":"custom","name":"apply_patch"}]})") == "got \"any time\"");
}

TEST_CASE("the request is repeated in the response", "[server][responses]") {
  const Playback playback = play_exchange(
      open_response,
      with(R"("instructions":"be \u2028 brief","temperature":0.5,"metadata":{"a":"b"})"), "x");
  CHECK(playback.whole.at("instructions").as_string() == "be \u2028 brief");
  CHECK(playback.whole.at("temperature").as_double() == 0.5);
  CHECK(playback.whole.at("metadata").at("a").as_string() == "b");
  CHECK(playback.whole.at("store").as_bool() == false);
  CHECK(playback.whole.at("tools").as_array().empty());
  CHECK(playback.frames.find("\u2028") == std::string::npos);  // line readers would split there
}

TEST_CASE("tools are declared as functions, what cannot be offered is left out",
          "[server][responses]") {
  const auto request = parsed(with(kTools));
  REQUIRE(request.chat.tools.size() == 3);
  CHECK(request.chat.tools[0].name == "exec_command");
  CHECK(request.chat.tools[1].name == "multi_agent_v1__close_agent");
  CHECK(request.chat.tools[2].name == "apply_patch");
  CHECK(request.chat.tools[2].parameters_json.find("\"input\"") != std::string::npos);
  CHECK(request.chat.prompt.tools_json.find("start: patch") != std::string::npos);
  CHECK(request.chat.tool_calls_allowed);
  CHECK_FALSE(parsed(with(R"("tools":[{"type":"function","name":"f"}],"tool_choice":"none")"))
                  .chat.tool_calls_allowed);
  CHECK_FALSE(parsed(with(R"("tools":[],"tool_choice":"auto")")).chat.tool_calls_allowed);
}

TEST_CASE("Codex's items become one assistant message a turn, results go by id",
          "[server][responses]") {
  const auto request = parsed(with(R"("instructions":"Be brief.")", R"([
      {"type":"message","role":"developer","id":"msg_1","content":[
        {"type":"input_text","text":"base"},{"type":"input_text","text":"skills"}]},
      {"role":"user","content":"env"},
      {"role":"user","content":[{"type":"input_text","text":"look"},
        {"type":"input_image","image_url":"data:image/png;base64,iVBO"}]},
      {"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":null,
       "content":[{"type":"reasoning_text","text":"Hm."}]},
      {"type":"message","role":"assistant","status":"completed","content":[
        {"type":"output_text","text":"Let me ","annotations":[]},
        {"type":"output_text","text":"see.","annotations":[]}]},
      {"type":"function_call","call_id":"a","name":"exec_command","arguments":"{\"cmd\":\"ls\"}"},
      {"type":"function_call","call_id":"b","name":"close_agent","namespace":"multi_agent_v1",
       "arguments":""},
      {"type":"custom_tool_call","call_id":"c","name":"apply_patch","input":"*** Begin\n"},
      {"type":"web_search_call","id":"ws_1"},
      {"type":"custom_tool_call_output","call_id":"c","output":"C"},
      {"type":"function_call_output","call_id":"a","output":[{"type":"input_text","text":"A"}]},
      {"type":"function_call_output","call_id":"b","output":"B"},
      {"type":"message","role":"assistant","content":[{"type":"output_text","text":"Done."}]},
      {"type":"message","role":"assistant","content":"Really."}])"));
  const auto& messages = request.chat.prompt.messages;
  REQUIRE(messages.size() == 10);
  CHECK(messages[0].content == "Be brief.");
  CHECK(messages[1].role == "system");
  CHECK(messages[1].content == "base\nskills");
  CHECK(messages[3].content == "look\n[input_image left out: this model reads text only]");
  CHECK(messages[4].role == "assistant");
  CHECK(messages[4].reasoning_content == "Hm.");
  CHECK(messages[4].content == "Let me see.");
  REQUIRE(messages[4].tool_calls.size() == 3);
  CHECK(messages[4].tool_calls[1].name == "multi_agent_v1__close_agent");
  CHECK(messages[4].tool_calls[1].arguments == "{}");
  CHECK(messages[4].tool_calls[2].arguments == R"({"input": "*** Begin\n"})");
  CHECK(messages[5].tool_call_id == "c");
  CHECK(messages[6].content == "A");
  CHECK(messages[8].content == "Done.");
  CHECK(messages[9].content == "Really.");
  const RenderedPrompt prompt = render_chat(byte_tokenizer(), request.chat.prompt);
  CHECK(prompt.text.find("## Return of functions.apply_patch:2\nC") != std::string::npos);
}

TEST_CASE("the items of an answer render to the tokens that were generated",
          "[server][responses]") {
  const server::ServedModel model = byte_model();
  const json::value first = with(kTools);
  const Playback playback = play_exchange(open_response, model, first, kThoughtTextCalls);
  json::array input = {json::object{{"role", "user"}, {"content", "hi"}}};
  for (const json::value& item : playback.whole.at("output").as_array()) input.push_back(item);
  const auto before = prompt_of(open_response, model, first);
  const auto after = prompt_of(open_response, model, with(kTools, json::serialize(input)));
  auto expected = before;
  byte_tokenizer().encode_append(kThoughtTextCalls, Tokenizer::Specials::kAsTokens, expected);
  REQUIRE(after.size() > expected.size());
  CHECK(std::equal(expected.begin(), expected.end(), after.begin()));
}

struct Bad {
  std::string_view members;
  std::string_view input;
  std::string_view named;
};

TEST_CASE("a wrong field of a responses request is named", "[server][responses]") {
  const std::vector<Bad> bad = {
      {R"("model":7)", "\"hi\"", "model"},
      {"", "null", "input"},
      {"", "7", "input"},
      {"", "[]", "input"},
      {"", "[7]", "input[0]"},
      {"", R"([{"role":"tool","content":"x"}])", "input[0].role"},
      {"", R"([{"role":"user"}])", "input[0].content"},
      {"", R"([{"role":"user","content":[7]}])", "input[0].content[0]"},
      {"", R"([{"role":"user","content":[{"type":"input_text"}]}])", "input[0].content[0].text"},
      {"", R"([{"type":"function_call","name":"f","arguments":"{}"}])", "input[0].call_id"},
      {"", R"([{"type":"function_call","call_id":"a","arguments":"{}"}])", "input[0].name"},
      {"", R"([{"type":"function_call","call_id":"a","name":"f"}])", "input[0].arguments"},
      {"", R"([{"type":"function_call_output","output":"x"}])", "input[0].call_id"},
      {"", R"([{"type":"reasoning","content":"x"}])", "input[0].content"},
      {"", R"([{"type":"item_reference","id":"x"}])", "input[0].type"},
      {R"("instructions":7)", "\"hi\"", "instructions"},
      {R"("temperature":3)", "\"hi\"", "temperature"},
      {R"("top_p":"x")", "\"hi\"", "top_p"},
      {R"("max_output_tokens":0)", "\"hi\"", "max_output_tokens"},
      {R"("stream":"x")", "\"hi\"", "stream"},
      {R"("tools":{})", "\"hi\"", "tools"},
      {R"("tools":[7])", "\"hi\"", "tools[0]"},
      {R"("tools":[{"name":"f"}])", "\"hi\"", "tools[0].type"},
      {R"("tools":[{"type":"function"}])", "\"hi\"", "tools[0].name"},
      {R"("tools":[{"type":"namespace","name":"n","tools":[{"type":"function"}]}])", "\"hi\"",
       "tools[0].tools[0].name"},
      {R"("tools":[{"type":"function","name":"f","parameters":7}])", "\"hi\"",
       "tools[0].parameters"},
      {R"("tool_choice":"maybe")", "\"hi\"", "tool_choice"},
      {R"("tool_choice":"required")", "\"hi\"", "tool_choice"},
      {R"("tool_choice":{"type":"function","name":"f"})", "\"hi\"", "tool_choice"},
      {R"("text":{"format":{"type":"json_schema"}})", "\"hi\"", "text.format.schema"},
      {R"("parallel_tool_calls":7)", "\"hi\"", "parallel_tool_calls"},
      {R"("text":{"format":{"type":"yaml"}})", "\"hi\"", "text.format.type"},
      {R"("text":7)", "\"hi\"", "text"},
      {R"("reasoning":7)", "\"hi\"", "reasoning"},
      {R"("reasoning":{"effort":"some"})", "\"hi\"", "reasoning.effort"},
      {R"("chat_template_kwargs":{"thinking":1})", "\"hi\"", "chat_template_kwargs.thinking"},
      {R"("store":7)", "\"hi\"", "store"},
      {R"("previous_response_id":"resp_1")", "\"hi\"", "previous_response_id"},
      {R"("conversation":"conv_1")", "\"hi\"", "conversation"},
      {R"("background":true)", "\"hi\"", "background"},
  };
  for (const Bad& each : bad) {
    const std::string body = json::serialize(with(each.members, each.input));
    auto refused = server::parse_responses_request(body, {.vocab_size = 512});
    INFO(body);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().status == 400);
    CHECK(refused.error().param == each.named);
    CHECK(refused.error().message.starts_with(each.named));
  }
}

TEST_CASE("responses go over the wire, and a websocket is answered 426", "[server][responses]") {
  ServerFixture fixture({.scripts = {{"tool-question", std::string(kThoughtTextCalls)},
                                     {"", "<think>Hm.</think>Hello!"}}});
  Client client(fixture);
  const std::string body = R"({"input":"tool-question","include":["reasoning.encrypted_content"],)"
                           R"("store":false,"reasoning":{"summary":"auto"},)" +
                           std::string(kTools);
  const json::value whole = client.post("/v1/responses", body + "}").json();
  const Response streamed = client.post("/v1/responses", body + R"(,"stream":true})");
  CHECK(streamed.headers.at("content-type").starts_with("text/event-stream"));
  json::value response = accumulate(named_events(streamed.body));
  CHECK(response.at("output").as_array().size() == whole.at("output").as_array().size());

  const Response too_long =
      client.post("/v1/responses", R"({"input":")" + std::string(9000, 'a') + "\"}");
  CHECK(too_long.status == 400);
  CHECK(too_long.json().at("error").at("code").as_string() == "context_length_exceeded");

  const Response upgrade = client.get(
      "/v1/responses",
      {"Connection: Upgrade", "Upgrade: websocket", "openai-beta: responses_websockets=2026-02-06",
       "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="});
  CHECK(upgrade.status == 426);
  CHECK(upgrade.headers.at("upgrade") == "HTTP/1.1");
  CHECK(upgrade.json().at("error").at("code").as_string() == "upgrade_not_supported");
  CHECK(Client(fixture).get("/v1/responses").status == 405);
}

}  // namespace
}  // namespace tandem::tests
