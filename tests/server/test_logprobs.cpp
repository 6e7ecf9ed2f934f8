// How many logprobs a request may ask for, and what it gets: --max-logprobs, -1, prompt_logprobs.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <iterator>
#include <string>
#include <vector>

#include "server/openai/chat_completion.h"
#include "server/openai/text_completion.h"
#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kText = "/v1/completions";

server::ServerOptions options_with(int32_t max_logprobs) {
  server::ServerOptions options = ServerSetup().options;
  options.max_logprobs = max_logprobs;
  return options;
}

std::vector<Script> scripts() { return {{"", "Hello there!"}}; }

// The message of a 400 that names `param`.
std::string refused(Client& client,
                    const char* path,
                    const std::string& body,
                    std::string_view param) {
  const Response response = client.post(path, body);
  INFO(response.body);
  CHECK(response.status == 400);
  CHECK(response.json().at("error").at("param").as_string() == param);
  return std::string(response.json().at("error").at("message").as_string());
}

TEST_CASE("all of the vocabulary is to be had where the server has no limit",
          "[server][logprobs]") {
  ServerFixture fixture({.scripts = scripts(), .options = options_with(-1)});
  Client client(fixture);
  const std::string extra = R"("max_tokens":2,"logprobs":true,"top_logprobs":-1)";
  const Response response = client.post(kChat, chat_body("hi", extra));
  REQUIRE(response.status == 200);
  const json::value answer = response.json();
  const json::array& tokens = answer.at("choices").at(0).at("logprobs").at("content").as_array();
  REQUIRE(tokens.size() == 2);
  for (const json::value& token : tokens) {
    const json::array& top = token.at("top_logprobs").as_array();
    CHECK(std::ssize(top) == byte_tokenizer().vocab_size());
    double last = 0;
    for (const json::value& entry : top) {
      CHECK(entry.at("logprob").to_number<double>() <= last);
      last = entry.at("logprob").to_number<double>();
    }
  }
  const Response streamed = client.post(kChat, chat_body("hi", extra + R"(,"stream":true)"));
  CHECK(streamed.status == 200);
  CHECK(add_up(sse_events(streamed.body)).at(0).content == "He");
  const Response text = client.post(kText, R"({"prompt":"hi","max_tokens":1,"logprobs":-1})");
  REQUIRE(text.status == 200);
  const json::value choice = text.json().at("choices").at(0);
  // Added tokens and bytes that are no text have names of their own.
  CHECK(choice.at("logprobs").at("top_logprobs").at(0).as_object().size() > 256);
  const Response prompt =
      client.post(kChat, chat_body("hi", R"("max_tokens":1,"prompt_logprobs":-1)"));
  REQUIRE(prompt.status == 200);
  const json::value first = prompt.json().at("prompt_logprobs").at(1);
  CHECK(std::ssize(first.as_object()) == byte_tokenizer().vocab_size());
}

TEST_CASE("beyond the server's limit is a 400 that names it and the flag", "[server][logprobs]") {
  for (const int32_t limit : {20, 3, 100}) {
    ServerFixture fixture({.scripts = scripts(), .options = options_with(limit)});
    Client client(fixture);
    const std::string at = std::to_string(limit);
    const std::string above = std::to_string(limit + 1);
    const auto chat = [](const std::string& num) {
      return chat_body("hi", R"("max_tokens":2,"logprobs":true,"top_logprobs":)" + num);
    };
    const auto text = [](const std::string& num) {
      return R"({"prompt":"hi","max_tokens":2,"logprobs":)" + num + "}";
    };
    CHECK(client.post(kChat, chat(at)).status == 200);
    CHECK(client.post(kText, text(at)).status == 200);
    for (const std::string& num : {above, std::string("-1")}) {
      const std::string message = refused(client, kChat, chat(num), "top_logprobs");
      CHECK(message.find("at most " + at) != std::string::npos);
      CHECK(message.find("--max-logprobs") != std::string::npos);
      refused(client, kText, text(num), "logprobs");
      refused(client, kChat, chat_body("hi", R"("prompt_logprobs":)" + num), "prompt_logprobs");
    }
    refused(client, kChat, chat("-2"), "top_logprobs");
  }
}

TEST_CASE("more than the usual logprobs of more tokens than fit is a 400 that says how many fit",
          "[server][logprobs]") {
  ServerFixture fixture({.scripts = scripts(), .options = options_with(-1)});
  Client client(fixture);
  // 2,097,152 / 512 tokens.
  const auto body = [](const std::string& more) {
    return chat_body("hi", R"("logprobs":true,"top_logprobs":-1)" + more);
  };
  CHECK(client.post(kChat, body(R"(,"max_tokens":4000)")).status == 200);
  CHECK(refused(client, kChat, body(R"(,"max_tokens":4000,"n":2)"), "top_logprobs")
            .find("at most 4096 tokens") != std::string::npos);
  refused(client, kChat, body(R"(,"max_tokens":2000,"heavy":{"n":2})"), "top_logprobs");
  refused(client, kChat, chat_body("hi", R"("max_tokens":4096,"prompt_logprobs":-1)"),
          "prompt_logprobs");
  refused(client, kText, R"({"prompt":["a","b","c"],"max_tokens":2000,"logprobs":-1})", "logprobs");
  // The usual few are to be had of any number.
  CHECK(client.post(kChat, chat_body("hi", R"("logprobs":true,"top_logprobs":20)")).status == 200);
}

TEST_CASE("completions tell the logprobs of their prompts, choice by choice",
          "[server][logprobs]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string asked = R"({"prompt":["abc","x"],"n":2,"max_tokens":2,"prompt_logprobs":1)";
  const Response response = client.post(kText, asked + "}");
  REQUIRE(response.status == 200);
  const json::value answer = response.json();
  const json::array& choices = answer.at("choices").as_array();
  REQUIRE(choices.size() == 4);
  for (size_t idx = 0; idx < choices.size(); ++idx) {
    const std::string_view prompt = idx < 2 ? "abc" : "x";
    const json::array& tokens = choices[idx].at("prompt_logprobs").as_array();
    REQUIRE(tokens.size() == prompt.size());
    CHECK(tokens[0].is_null());
    for (size_t token_idx = 1; token_idx < tokens.size(); ++token_idx) {
      const json::object& entry = tokens[token_idx].as_object();
      const json::value& own = entry.at(std::to_string(prompt[token_idx]));
      CHECK(own.at("decoded_token").as_string() == prompt.substr(token_idx, 1));
      CHECK(own.at("logprob").to_number<double>() <= 0);
      CHECK(entry.size() == (own.at("rank").as_int64() == 1 ? 1 : 2));
    }
    CHECK(choices[idx].at("logprobs").is_null());
  }
  CHECK(choices[0].at("prompt_logprobs") == choices[1].at("prompt_logprobs"));
  // Beside an echo with logprobs of its own, which the other wish makes no larger.
  const json::value both =
      client.post(kText, asked + R"(,"echo":true,"logprobs":0})").json().at("choices").at(0);
  CHECK(both.at("prompt_logprobs") == choices[0].at("prompt_logprobs"));
  CHECK(both.at("logprobs").at("tokens").as_array().size() == 5);
  for (const json::value& top : both.at("logprobs").at("top_logprobs").as_array())
    CHECK((top.is_null() || top.as_object().size() == 1));
  CHECK_FALSE(client.post(kText, R"({"prompt":"a"})")
                  .json()
                  .at("choices")
                  .at(0)
                  .as_object()
                  .contains("prompt_logprobs"));
  refused(client, kText, asked + R"(,"stream":true})", "prompt_logprobs");
  refused(client, kText, R"({"prompt":"a","prompt_logprobs":"x"})", "prompt_logprobs");
}

TEST_CASE("tokens that a stop has cut off have no logprobs, nor have those behind it",
          "[server][logprobs]") {
  const json::object text = {{"prompt", "hi"}, {"logprobs", 0}};
  const json::object chat = {{"messages", {{{"role", "user"}, {"content", "hi"}}}},
                             {"logprobs", true}};
  struct Case {
    json::object members;
    std::string_view answer;
    std::string_view shown;
  };
  const std::vector<Case> cases = {
      {{{"stop", "XYZ"}}, "abXcXYXYZef", "abXcXY"},
      {{{"stop", "XYZ"}, {"include_stop_str_in_output", true}}, "abXcXYXYZef", "abXcXYXYZ"},
      {{{"stop", "XYZ"}}, "abXY", "abXY"},  // held back to the end
      {{{"stop", "b"}}, "bcd", ""},
      {{{"stop", "\u4e2d"}}, "a\u4e8c\u4e2d!", "a\u4e8c"},  // characters of several tokens
      {{{"stop_regex", "[0-9]+,"}}, "in 1969, it", "in "}};
  for (const Case& each : cases) {
    INFO(each.answer);
    json::object body = text;
    for (const auto& member : each.members) body.insert(member);
    const Playback plain = play_exchange(server::open_text_completion, body, each.answer);
    const json::value& choice = plain.whole.at("choices").at(0);
    CHECK(choice.at("text").as_string() == each.shown);
    size_t num_tokens = 0;
    for (const NamedEvent& event : plain.events) {
      num_tokens += event.data.at("choices").at(0).at("logprobs").at("tokens").as_array().size();
    }
    CHECK(choice.at("logprobs").at("tokens").as_array().size() == each.shown.size());
    CHECK(num_tokens == each.shown.size());
    body = chat;
    for (const auto& member : each.members) body.insert(member);
    const Playback said = play_exchange(server::open_chat_completion, body, each.answer);
    CHECK(said.whole.at("choices").at(0).at("message").at("content").as_string() == each.shown);
    CHECK(said.whole.at("choices").at(0).at("logprobs").at("content").as_array().size() ==
          each.shown.size());
    std::vector<json::value> events;
    for (const NamedEvent& event : said.events) events.push_back(event.data);
    CHECK(add_up(events).at(0).logprobs.size() == each.shown.size());
  }
}

TEST_CASE("a stop behind thinking that is shown leaves the thinking its logprobs",
          "[server][logprobs]") {
  const json::value body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}},
                            {"logprobs", true},
                            {"separate_reasoning", false},
                            {"stop", "XY"}};
  const Playback playback =
      play_exchange(server::open_chat_completion, body, "<think>XY</think>XYab");
  const json::value& choice = playback.whole.at("choices").at(0);
  CHECK(choice.at("message").at("content").as_string() == "<think>XY</think>");
  CHECK(choice.at("logprobs").at("content").as_array().size() == 4);
}

}  // namespace
}  // namespace tandem::tests
