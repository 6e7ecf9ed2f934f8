// How many logprobs a request may ask for, and what it gets: --max-logprobs, -1, prompt_logprobs.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <iterator>
#include <string>
#include <vector>

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

}  // namespace
}  // namespace tandem::tests
