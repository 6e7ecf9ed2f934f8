#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kChat = "/v1/chat/completions";

constexpr std::string_view kWeatherTool =
    R"("tools":[{"type":"function","function":{"name":"get_weather","parameters":
       {"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}])";

const std::vector<Script>& scripts() {
  static const std::vector<Script> all = {
      {"Beijing?",
       "<think>I should look.</think><|tool_calls_section_begin|><|tool_call_begin|>"
       "functions.get_weather:0<|tool_call_argument_begin|>{\"city\": \"Beijing\"}"
       "<|tool_call_end|><|tool_calls_section_end|>"},
      {"Sunny", "<think>Good news.</think>It is sunny in Beijing \u2600."},
      {"think", "<think>Hm, \u4e2d.</think>Yes \U0001f600!"},
      {"count", "0123456789", true},
      {"", "Hello there!"},
  };
  return all;
}

json::value ask(Client& client, std::string_view text, std::string_view extra = "") {
  const Response response = client.post(kChat, chat_body(text, extra));
  INFO(response.body);
  REQUIRE(response.status == 200);
  return response.json();
}

std::vector<StreamedChoice> stream(Client& client, std::string_view text, std::string extra = "") {
  if (!extra.empty()) extra += ",";
  const Response response = client.post(kChat, chat_body(text, extra + R"("stream":true)"));
  INFO(response.body);
  REQUIRE(response.status == 200);
  CHECK(response.headers.at("content-type").starts_with("text/event-stream"));
  CHECK(response.headers.at("transfer-encoding") == "chunked");
  CHECK(response.body.ends_with("data: [DONE]\n\n"));
  return add_up(sse_events(response.body));
}

TEST_CASE("an answer is the same streamed and not, on one connection", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const json::value whole = ask(client, "think!");
  CHECK(whole.at("object").as_string() == "chat.completion");
  CHECK(whole.at("model").as_string() == "tiny");
  const json::value& message = whole.at("choices").at(0).at("message");
  CHECK(message.at("content").as_string() == "Yes \U0001f600!");
  CHECK(message.at("reasoning_content").as_string() == "Hm, \u4e2d.");
  const auto streamed = stream(client, "think!");
  REQUIRE(streamed.size() == 1);
  CHECK(streamed[0].content == "Yes \U0001f600!");
  CHECK(streamed[0].reasoning == "Hm, \u4e2d.");
  CHECK(streamed[0].role_first);
  CHECK(streamed[0].finish_reason == "stop");
}

TEST_CASE("a tool loop runs until the final answer", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const json::value first = ask(client, "Weather in Beijing?", kWeatherTool);
  const json::value& choice = first.at("choices").at(0);
  CHECK(choice.at("finish_reason").as_string() == "tool_calls");
  const json::value& call = choice.at("message").at("tool_calls").at(0);
  CHECK(call.at("id").as_string() == "functions.get_weather:0");
  CHECK(call.at("function").at("arguments").as_string() == R"({"city": "Beijing"})");

  // The message goes back as it came, with the result behind it.
  const std::string second =
      R"({"messages":[{"role":"user","content":"Weather in Beijing?"},)" +
      json::serialize(choice.at("message")) +
      R"(,{"role":"tool","tool_call_id":"functions.get_weather:0","name":"get_weather",)"
      R"("content":"{\"weather\": \"Sunny\"}"}],)" +
      std::string(kWeatherTool) + "}";
  const json::value answer = client.post(kChat, second).json();
  CHECK(answer.at("choices").at(0).at("finish_reason").as_string() == "stop");
  CHECK(answer.at("choices").at(0).at("message").at("content").as_string() ==
        "It is sunny in Beijing \u2600.");

  const auto streamed = stream(client, "Weather in Beijing?", std::string(kWeatherTool));
  REQUIRE(streamed.at(0).tool_calls.size() == 1);
  CHECK(streamed[0].tool_calls[0].at("arguments") == R"({"city": "Beijing"})");
  CHECK(streamed[0].finish_reason == "tool_calls");
}

TEST_CASE("without tools, or with tool_choice none, no call can begin", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  for (const std::string& extra :
       {std::string(R"("max_tokens":30)"),
        std::string(kWeatherTool) + R"(,"tool_choice":"none","max_tokens":30)"}) {
    const json::value answer = ask(client, "Weather in Beijing?", extra);
    const json::value& choice = answer.at("choices").at(0);
    CHECK_FALSE(choice.at("message").as_object().contains("tool_calls"));
    // The model wanted the section marker; its second choice took its place.
    CHECK(choice.at("message").at("content").as_string().starts_with("x"));
  }
}

TEST_CASE("usage counts what the engine did", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string question = "think " + std::string(300, 'a');
  const json::value prompt = client.post("/apply-template", chat_body(question)).json();
  const json::value usage = ask(client, question).at("usage");
  CHECK(usage.at("prompt_tokens") == prompt.at("count"));
  // <think>Hm, X.</think>Yes Y! and the end: 1 + 8 + 1 + 9 + 1 tokens of one byte each.
  CHECK(usage.at("completion_tokens").as_int64() == 20);
  CHECK(usage.at("total_tokens").as_int64() ==
        usage.at("prompt_tokens").as_int64() + usage.at("completion_tokens").as_int64());
  CHECK(usage.at("completion_tokens_details").at("reasoning_tokens").as_int64() == 10);
  const json::value again = ask(client, question).at("usage");
  CHECK(again.at("prompt_tokens_details").at("cached_tokens").as_int64() >= 64);
}

TEST_CASE("every chunk tells the usage so far to who asks", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const auto events = [&](const std::string& options) {
    return sse_events(
        client.post(kChat, chat_body("hi", R"("stream":true,"stream_options":)" + options)).body);
  };
  int64_t num_completion_tokens = 0;
  for (const json::value& event : events(R"({"continuous_usage_stats":true})")) {
    const json::value& usage = event.at("usage");
    CHECK(usage.at("prompt_tokens").as_int64() > 0);
    CHECK(usage.at("completion_tokens").as_int64() >= num_completion_tokens);
    num_completion_tokens = usage.at("completion_tokens").as_int64();
  }
  CHECK(num_completion_tokens > 2);
  CHECK_FALSE(events("{}").front().as_object().contains("usage"));
}

TEST_CASE("limits end an answer with length", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const json::value cut = ask(client, "count", R"("max_tokens":5)");
  CHECK(cut.at("choices").at(0).at("message").at("content").as_string() == "01234");
  CHECK(cut.at("choices").at(0).at("finish_reason").as_string() == "length");
  CHECK(cut.at("usage").at("completion_tokens").as_int64() == 5);
  const json::value newer = ask(client, "count", R"("max_tokens":5,"max_completion_tokens":7)");
  CHECK(newer.at("usage").at("completion_tokens").as_int64() == 7);
  CHECK(stream(client, "count", R"("max_tokens":3)").at(0).finish_reason == "length");
}

TEST_CASE("no limit means the rest of the context", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts(), .max_context_tokens = 256});
  Client client(fixture);
  const json::value usage = ask(client, "count").at("usage");
  CHECK(usage.at("total_tokens").as_int64() == 256);
}

TEST_CASE("a stop string ends the answer and the generation", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const json::value answer = ask(client, "count", R"("stop":["45","zz"])");
  const json::value& choice = answer.at("choices").at(0);
  CHECK(choice.at("message").at("content").as_string() == "0123");
  CHECK(choice.at("finish_reason").as_string() == "stop");
  CHECK(choice.at("stop_reason").as_string() == "45");
  CHECK(answer.at("usage").at("completion_tokens").as_int64() == 6);
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 0; }));
  CHECK(stream(client, "count", R"("stop":"45")").at(0).content == "0123");

  const json::value by_token = ask(client, "count", R"("stop_token_ids":[53])");  // '5'
  CHECK(by_token.at("choices").at(0).at("message").at("content").as_string() == "01234");
}

TEST_CASE("n choices come side by side with their indices", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const json::value answer = ask(client, "count", R"("n":3,"max_tokens":12,"temperature":0)");
  REQUIRE(answer.at("choices").as_array().size() == 3);
  for (int64_t idx = 0; idx < 3; ++idx) {
    const json::value& choice = answer.at("choices").as_array().at(static_cast<size_t>(idx));
    CHECK(choice.at("index").as_int64() == idx);
    CHECK(choice.at("message").at("content").as_string() == "012345678901");
  }
  CHECK(answer.at("usage").at("completion_tokens").as_int64() == 36);
  const auto streamed = stream(client, "count", R"("n":3,"max_tokens":12)");
  REQUIRE(streamed.size() == 3);
  for (const StreamedChoice& choice : streamed) {
    CHECK(choice.role_first);
    CHECK(choice.content == "012345678901");
    CHECK(choice.finish_reason == "length");
  }
}

TEST_CASE("logprobs come from the engine, streamed and not", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string extra = R"("max_tokens":4,"logprobs":true,"top_logprobs":2)";
  const json::value answer = ask(client, "count", extra);
  const json::array& entries = answer.at("choices").at(0).at("logprobs").at("content").as_array();
  REQUIRE(entries.size() == 4);
  CHECK(entries.at(2).at("token").as_string() == "2");
  CHECK(entries.at(2).at("logprob").to_number<double>() > -0.01);
  CHECK(entries.at(2).at("top_logprobs").as_array().size() == 2);
  CHECK(entries.at(2).at("top_logprobs").at(1).at("token").as_string() == "x");
  CHECK(stream(client, "count", extra).at(0).logprobs.size() == 4);
}

TEST_CASE("ignore_eos and min_tokens reach the engine", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const json::value usage = ask(client, "hi", R"("ignore_eos":true,"max_tokens":50)").at("usage");
  CHECK(usage.at("completion_tokens").as_int64() == 50);
  const json::value longer = ask(client, "hi", R"("min_tokens":20,"max_tokens":50)");
  CHECK(longer.at("usage").at("completion_tokens").as_int64() >= 20);
}

TEST_CASE("fifty streams at once each get their own answer", "[server][chat]") {
  ServerSetup setup{.scripts = {{"", "0123456789", true}}};
  setup.options.num_io_threads = 2;
  setup.engine.max_sequences = 64;
  ServerFixture fixture(setup);
  std::vector<std::string> contents(50);
  std::vector<std::thread> clients;
  for (size_t idx = 0; idx < contents.size(); ++idx) {
    clients.emplace_back([&, idx] {
      // Catch2's checks are not for several threads: the main thread looks at what came.
      Client client(fixture);
      const std::string extra = R"("stream":true,"max_tokens":)" + std::to_string(20 + idx);
      client.send_request("POST", kChat, chat_body("hi", extra), {"Connection: close"});
      contents[idx] = client.read_to_end();
    });
  }
  for (std::thread& thread : clients) thread.join();
  for (size_t idx = 0; idx < contents.size(); ++idx) {
    INFO(contents[idx].substr(0, 300));
    CHECK(contents[idx].starts_with("HTTP/1.1 200 OK"));
    size_t num_content = 0;
    const std::string needle = "\"delta\":{\"content\":\"";
    for (size_t pos = contents[idx].find(needle); pos != std::string::npos;
         pos = contents[idx].find(needle, pos + 1)) {
      ++num_content;
    }
    CHECK(num_content == 20 + idx);
    CHECK(contents[idx].find("data: [DONE]") != std::string::npos);
  }
  CHECK(fixture.engine.stats().num_finished == 50);
}

TEST_CASE("a full queue is a 429 that says when to come back", "[server][chat]") {
  ServerSetup setup{.scripts = scripts()};
  setup.engine.max_sequences = 1;
  setup.engine.max_queued_requests = 1;
  ServerFixture fixture(setup);
  fixture.model.hold();
  std::vector<std::unique_ptr<Client>> waiting;
  Response refused;
  for (int round = 0; round < 8 && refused.status != 429; ++round) {
    auto client = std::make_unique<Client>(fixture);
    // All eight choices of one request do not fit: part of it is taken back.
    refused = client->post(kChat, chat_body("hi", R"("n":8)"));
    waiting.push_back(std::move(client));
  }
  CHECK(refused.status == 429);
  CHECK(refused.headers.at("retry-after") == "1");
  CHECK(refused.json().at("error").at("type").as_string() == "rate_limit_error");
  fixture.model.release();
  CHECK(eventually([&] {
    const EngineStats stats = fixture.engine.stats();
    return stats.num_running == 0 && stats.num_waiting == 0;
  }));
}

TEST_CASE("a failing step fails its requests and health, in the form of each", "[server][chat]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  fixture.model.fail_next_step();
  const Response failed = client.post(kChat, chat_body("hi"));
  CHECK(failed.status == 500);
  CHECK(failed.json().at("error").at("code").as_string() == "engine_failed");
  Client second(fixture);
  CHECK(second.get("/health").status == 503);
  CHECK(second.post(kChat, chat_body("hi")).status == 503);
}

}  // namespace
}  // namespace tandem::tests
