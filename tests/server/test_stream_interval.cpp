// stream_interval: how many tokens a chunk of a stream has, and that nothing is lost for it.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "server/anthropic/messages_exchange.h"
#include "server/openai/chat_completion.h"
#include "server/openai/text_completion.h"
#include "server/responses/responses_exchange.h"
#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

using Texts = std::vector<std::string>;

json::object chat(int32_t interval) {
  json::object body = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}};
  if (interval > 0) body["stream_interval"] = interval;
  return body;
}

server::ServedModel model_with(int32_t stream_interval) {
  server::ServedModel model = byte_model();
  model.stream_interval = stream_interval;
  return model;
}

// The text of every chunk that has some; thinking in brackets.
Texts chat_texts(const Playback& playback) {
  Texts texts;
  for (const NamedEvent& event : playback.events) {
    if (!event.data.as_object().contains("choices")) continue;  // an error
    const json::object& delta = event.data.at("choices").at(0).at("delta").as_object();
    if (delta.contains("role")) continue;
    if (delta.contains("reasoning")) {
      std::string& text = texts.emplace_back(delta.at("reasoning").as_string());
      text.insert(text.begin(), '[');
      text.push_back(']');
    }
    if (delta.contains("content")) texts.emplace_back(delta.at("content").as_string());
    if (delta.contains("tool_calls")) {
      const json::object& call = delta.at("tool_calls").at(0).at("function").as_object();
      texts.emplace_back(call.contains("name") ? call.at("name").as_string()
                                               : call.at("arguments").as_string());
    }
  }
  return texts;
}

TEST_CASE("the first text comes at once, then as many tokens as the interval", "[server][stream]") {
  const auto texts = [](int32_t wanted, int32_t of_server, std::string_view answer) {
    return chat_texts(
        play_exchange(server::open_chat_completion, model_with(of_server), chat(wanted), answer));
  };
  CHECK(texts(0, 1, "0123") == Texts{"0", "1", "2", "3"});
  CHECK(texts(4, 1, "0123456789") == Texts{"0", "1234", "5678", "9"});
  CHECK(texts(0, 4, "0123456789") == Texts{"0", "1234", "5678", "9"});
  CHECK(texts(2, 4, "0123456789") == Texts{"0", "1234", "5678", "9"});  // the server's at least
  CHECK(texts(6, 4, "0123456789") == Texts{"0", "123456", "789"});
  CHECK(texts(100, 1, "0") == Texts{"0"});
  // Markers are tokens, too; thinking and content never share a chunk.
  CHECK(texts(4, 1, "<think>abcdef</think>01234567") ==
        Texts{"[a]", "[bcde]", "[f]", "01", "2345", "67"});
  // A character of several tokens is not cut, and counts as its tokens.
  CHECK(texts(3, 1, "a\u4e2d\u4e2d!") == Texts{"a", "\u4e2d", "\u4e2d", "!"});
}

TEST_CASE("calls keep their shape at any interval", "[server][stream]") {
  json::object body = chat(7);
  body["tools"] = {{{"type", "function"}, {"function", {{"name", "f"}}}}};
  const Playback playback = play_exchange(
      server::open_chat_completion, body,
      "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
      "<|tool_call_argument_begin|>{\"city\": \"Bern\"}<|tool_call_end|>"
      "<|tool_call_begin|>functions.f:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
      "<|tool_calls_section_end|>");
  CHECK(chat_texts(playback) == Texts{"f", "{\"city\"", ": \"Bern", "\"}", "f", "{}"});
}

TEST_CASE("every dialect streams in chunks of the server's interval", "[server][stream]") {
  const server::ServedModel model = model_with(5);
  json::object messages = chat(0);
  messages["max_tokens"] = 100;
  Texts texts;
  for (const NamedEvent& event :
       play_exchange(server::open_messages, model, messages, "0123456789").events) {
    if (event.name == "content_block_delta")
      texts.emplace_back(event.data.at("delta").at("text").as_string());
  }
  CHECK(texts == Texts{"0", "12345", "6789"});
  texts.clear();
  for (const NamedEvent& event :
       play_exchange(server::open_response, model, {{"input", "hi"}}, "0123456789").events) {
    if (event.name == "response.output_text.delta")
      texts.emplace_back(event.data.at("delta").as_string());
  }
  CHECK(texts == Texts{"0", "12345", "6789"});
  texts.clear();
  const json::value text_body = {{"prompt", "hi"}, {"stream_interval", 3}, {"logprobs", 0}};
  int num_logprobs = 0;
  for (const NamedEvent& event :
       play_exchange(server::open_text_completion, model, text_body, "0123456789").events) {
    const json::value& choice = event.data.at("choices").at(0);
    texts.emplace_back(choice.at("text").as_string());
    num_logprobs += static_cast<int>(choice.at("logprobs").at("tokens").as_array().size());
  }
  CHECK(texts == Texts{"0", "12345", "6789"});
  CHECK(num_logprobs == 10);
}

TEST_CASE("what is held is told before an error", "[server][stream]") {
  const PlayOptions aborted{.reason = FinishReason::kAborted};
  const Playback playback =
      play_exchange(server::open_chat_completion, chat(100), "0123456789", aborted);
  CHECK(chat_texts(playback) == Texts{"0", "123456789"});
  CHECK(playback.events.back().data.as_object().contains("error"));
  const json::value text_body = {{"prompt", "hi"}, {"stream_interval", 100}};
  const Playback text =
      play_exchange(server::open_text_completion, text_body, "0123456789", aborted);
  REQUIRE(text.events.size() == 3);
  const json::value& choice = text.events[1].data.at("choices").at(0);
  CHECK(choice.at("text").as_string() == "123456789");
  CHECK(choice.at("finish_reason").is_null());
}

TEST_CASE("thinking comes in one piece where its stream is not wanted", "[server][stream]") {
  json::object body = chat(0);
  body["stream_reasoning"] = false;
  const auto texts = [&](std::string_view answer) {
    return chat_texts(play_exchange(server::open_chat_completion, body, answer));
  };
  CHECK(texts("<think>abc</think>01") == Texts{"[abc]", "0", "1"});
  CHECK(texts("<think>abc") == Texts{"[abc]"});
}

TEST_CASE("an interval below one token is refused", "[server][stream]") {
  ServerFixture fixture;
  Client client(fixture);
  for (const char* bad : {"0", "-1", "1.5", "\"2\""}) {
    const Response response = client.post(
        "/v1/chat/completions", chat_body("hi", R"("stream_interval":)" + std::string(bad)));
    CHECK(response.status == 400);
    CHECK(response.json().at("error").at("param").as_string() == "stream_interval");
  }
}

TEST_CASE("usage ends every stream where the server says so", "[server][stream]") {
  ServerSetup setup;
  setup.options.force_include_usage = true;
  ServerFixture forced(setup);
  ServerFixture usual;
  for (const std::string path : {"/v1/chat/completions", "/v1/completions"}) {
    for (const std::string options :
         {"", R"(,"stream_options":{"include_usage":false})", R"(,"stream_options":{})"}) {
      const std::string members = R"("stream":true)" + options;
      const std::string body = path == "/v1/completions" ? R"({"prompt":"hi",)" + members + "}"
                                                         : chat_body("hi", members);
      const auto has_usage = [&](const ServerFixture& fixture) {
        const json::value last = named_events(Client(fixture).post(path, body).body).back().data;
        return last.at("choices").as_array().empty() && last.as_object().contains("usage");
      };
      INFO(body);
      CHECK(has_usage(forced));
      CHECK_FALSE(has_usage(usual));
    }
  }
}

}  // namespace
}  // namespace tandem::tests
