// return_token_ids: the tokens that were sampled, whatever of them is text, in one piece or in
// many.
#include <boost/json/value.hpp>
#include <boost/json/value_to.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "server/openai/chat_completion.h"
#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

using Ids = std::vector<int32_t>;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kText = "/v1/completions";
constexpr std::string_view kCall =
    "<think>Hm \u4e2d.</think>Look: \U0001f600<|tool_calls_section_begin|><|tool_call_begin|>"
    "functions.f:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|>"
    "<|tool_calls_section_end|>";

ServerSetup setup() {
  return {.scripts = {{"call", std::string(kCall)},
                      {"count", "0123456789", true},
                      {"stop", "abcXdXYef"},
                      {"", "<think>Hm.</think>\u00e9!"}}};
}

Ids ids_of(std::string_view text) {
  return byte_tokenizer().encode(text, Tokenizer::Specials::kAsTokens);
}

// With the token that ends an answer.
Ids ended(std::string_view text) {
  Ids ids = ids_of(text);
  ids.push_back(byte_tokenizer().specials().im_end);
  return ids;
}

Ids ids_in(const json::value& list) { return json::value_to<Ids>(list); }

void append(Ids& ids, const json::value& list) {
  const Ids more = ids_in(list);
  ids.insert(ids.end(), more.begin(), more.end());
}

// The tokens that each choice of a chat stream has told.
std::vector<Ids> add_up_ids(const std::vector<json::value>& events, size_t num_choices) {
  std::vector<Ids> choices(num_choices);
  for (const json::value& event : events) {
    for (const json::value& chunk : event.at("choices").as_array()) {
      const json::object& delta = chunk.at("delta").as_object();
      const bool is_role = delta.contains("role");
      CHECK(chunk.as_object().contains("token_ids") == !is_role);
      if (is_role) continue;
      append(choices.at(static_cast<size_t>(chunk.at("index").as_int64())), chunk.at("token_ids"));
      // The text of a chunk is that of its own tokens, but for its markers.
      const std::string told = byte_tokenizer().decode(ids_in(chunk.at("token_ids")));
      for (const char* key : {"reasoning_content", "content"}) {
        if (!delta.contains(key)) continue;
        CHECK(told.find(std::string(delta.at(key).as_string())) != std::string::npos);
      }
    }
  }
  return choices;
}

struct Case {
  std::string body;  // members behind "messages"
  std::string text;  // of the last message
  Ids ids;
};

TEST_CASE("a chat tells the tokens of prompt and answer, whole and streamed", "[server][ids]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])";
  const std::vector<Case> cases = {
      {R"("n":2)", "hi", ended("<think>Hm.</think>\u00e9!")},
      {tools, "call", ended(kCall)},
      {tools + R"(,"parallel_tool_calls":false)", "call",
       ids_of(kCall.substr(0, kCall.find("<|tool_calls_section_end")))},
      {R"("max_tokens":3)", "count", ids_of("012")},
      {R"("stop":["XY"])", "stop", ids_of("abcXdXY")},
      {R"("stop":["XY"],"include_stop_str_in_output":true)", "stop", ids_of("abcXdXY")},
      {R"("stop_token_ids":[100])", "stop", ids_of("abcXd")},
      {R"("thinking":{"type":"disabled"},"n":3)", "hi", ids_of("")}};
  for (const Case& each : cases) {
    INFO(each.body);
    const std::string asked = each.body + R"(,"temperature":0,"return_token_ids":true)";
    const json::value prompt =
        client.post("/apply-template", chat_body(each.text, each.body)).json();
    const json::value whole = client.post(kChat, chat_body(each.text, asked)).json();
    CHECK(whole.at("prompt_token_ids") == prompt.at("tokens"));
    const json::array& choices = whole.at("choices").as_array();
    int64_t num_tokens = 0;
    for (const json::value& choice : choices) {
      if (!each.ids.empty()) CHECK(ids_in(choice.at("token_ids")) == each.ids);
      num_tokens += static_cast<int64_t>(choice.at("token_ids").as_array().size());
    }
    CHECK(num_tokens == whole.at("usage").at("completion_tokens").as_int64());

    for (const std::string interval : {"1", "5"}) {
      const std::string members = asked + R"(,"stream":true,"stream_interval":)" + interval;
      const auto events = sse_events(client.post(kChat, chat_body(each.text, members)).body);
      int num_prompts = 0;
      for (const json::value& event : events) {
        if (!event.as_object().contains("prompt_token_ids")) continue;
        ++num_prompts;
        CHECK(event.at("prompt_token_ids") == prompt.at("tokens"));
      }
      CHECK(events.front().as_object().contains("prompt_token_ids"));
      CHECK(num_prompts == 1);
      const std::vector<Ids> streamed = add_up_ids(events, choices.size());
      for (size_t idx = 0; idx < choices.size(); ++idx)
        CHECK(streamed[idx] == ids_in(choices[idx].at("token_ids")));
    }
  }
}

TEST_CASE("tokens whose text is held back come with it", "[server][ids]") {
  const json::value body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}},
                            {"return_token_ids", true},
                            {"stop", {"XYZ"}}};
  // Two bytes of a character, then what could have become a stop string.
  const auto playback =
      play_exchange(server::open_chat_completion, body, "a\u00e9bXYc", {.cached_tokens = 0});
  std::vector<std::pair<std::string, Ids>> chunks;
  for (const NamedEvent& event : playback.events) {
    const json::value& chunk = event.data.at("choices").at(0);
    const json::object& delta = chunk.at("delta").as_object();
    if (delta.contains("role")) continue;
    chunks.emplace_back(delta.contains("content") ? delta.at("content").as_string() : "",
                        ids_in(chunk.at("token_ids")));
  }
  const std::vector<std::pair<std::string, Ids>> expected = {
      {"a", {'a'}}, {"\u00e9", {0xc3, 0xa9}}, {"b", {'b'}}, {"XYc", {'X', 'Y', 'c'}}, {"", {}}};
  CHECK(chunks == expected);
}

TEST_CASE("hidden thinking hides its tokens, and who does not ask sees none", "[server][ids]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const std::string hidden = R"("return_token_ids":true,"include_reasoning":false)";
  for (const std::string& members : {hidden, hidden + R"(,"stream":true)"}) {
    const Response response = client.post(kChat, chat_body("hi", members));
    CHECK(response.body.find("\"token_ids\"") == std::string::npos);
    CHECK(response.body.find("\"prompt_token_ids\"") != std::string::npos);
  }
  for (const std::string path : {kChat, kText}) {
    const std::string body = path == kChat ? chat_body("hi") : R"({"prompt":"hi"})";
    CHECK(client.post(path, body).body.find("token_ids") == std::string::npos);
  }
  const Response bad = client.post(kChat, chat_body("hi", R"("return_token_ids":1)"));
  CHECK(bad.json().at("error").at("param").as_string() == "return_token_ids");
}

TEST_CASE("a text completion tells the tokens choice by choice", "[server][ids]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  for (const std::string members :
       {R"("prompt":["count","stop"],"n":2,"max_tokens":4)",
        R"("prompt":["count","stop"],"max_tokens":4,"echo":true,"logprobs":1)",
        R"("prompt":["stop","hi"],"max_tokens":50,"stop":["XY"])",
        R"("prompt":["hi"],"max_tokens":0,"echo":true)"}) {
    INFO(members);
    const std::string body = "{" + members + R"(,"return_token_ids":true)";
    const json::value whole = client.post(kText, body + "}").json();
    const json::array& choices = whole.at("choices").as_array();
    std::vector<Ids> prompts(choices.size());
    std::vector<Ids> answers(choices.size());
    int64_t num_tokens = 0;
    for (size_t idx = 0; idx < choices.size(); ++idx) {
      num_tokens += static_cast<int64_t>(choices[idx].at("token_ids").as_array().size());
      CHECK_FALSE(choices[idx].at("prompt_token_ids").as_array().empty());
    }
    CHECK(num_tokens == whole.at("usage").at("completion_tokens").as_int64());
    for (const NamedEvent& event :
         named_events(client.post(kText, body + R"(,"stream":true})").body)) {
      const json::object& chunk = event.data.at("choices").at(0).as_object();
      const auto idx = static_cast<size_t>(chunk.at("index").as_int64());
      append(answers[idx], chunk.at("token_ids"));
      if (!chunk.contains("prompt_token_ids")) continue;
      CHECK(prompts[idx].empty());
      append(prompts[idx], chunk.at("prompt_token_ids"));
    }
    for (size_t idx = 0; idx < choices.size(); ++idx) {
      CHECK(answers[idx] == ids_in(choices[idx].at("token_ids")));
      CHECK(prompts[idx] == ids_in(choices[idx].at("prompt_token_ids")));
    }
  }
  const json::value stopped =
      client.post(kText, R"({"prompt":"stop","stop":["XY"],"return_token_ids":true})").json();
  CHECK(ids_in(stopped.at("choices").at(0).at("token_ids")) == ids_of("abcXdXY"));
  CHECK(ids_in(stopped.at("choices").at(0).at("prompt_token_ids")) == ids_of("stop"));
  CHECK(stopped.at("choices").at(0).at("stop_reason").as_string() == "XY");
}

TEST_CASE("the tokens of Heavy Mode's trajectories stand with them", "[server][ids]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const json::value answer =
      client
          .post(kChat, chat_body("hi", R"("heavy":{"n":2,"return_trajectories":true},
                                          "return_token_ids":true,"temperature":0)"))
          .json();
  const Ids expected = ended("<think>Hm.</think>\u00e9!");
  CHECK(ids_in(answer.at("choices").at(0).at("token_ids")) == expected);
  for (const json::value& trajectory : answer.at("trajectories").as_array()) {
    CHECK(ids_in(trajectory.at("token_ids")) == expected);
  }
}

}  // namespace
}  // namespace tandem::tests
