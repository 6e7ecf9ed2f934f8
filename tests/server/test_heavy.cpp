// Heavy Mode: rollouts side by side, then one answer made of them.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr std::string_view kChat = "/v1/chat/completions";

ServerSetup setup() {
  return {.scripts = {{"independent attempts", "<think>Compare.</think>Forty-two."},
                      {"endless", "0123456789", true},
                      {"", "<think>Guess.</think>Perhaps 42."}}};
}

TEST_CASE("trajectories come with the answer that was made of them", "[server][heavy]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const std::string question = "How many? " + std::string(300, 'a');
  const json::value plain = client.post(kChat, chat_body(question)).json();
  const json::value answer =
      client.post(kChat, chat_body(question, R"("heavy":{"n":3,"return_trajectories":true})"))
          .json();
  REQUIRE(answer.at("choices").as_array().size() == 1);
  const json::value& message = answer.at("choices").at(0).at("message");
  CHECK(message.at("content").as_string() == "Forty-two.");
  CHECK(message.at("reasoning_content").as_string() == "Compare.");
  const json::array& trajectories = answer.at("trajectories").as_array();
  REQUIRE(trajectories.size() == 3);
  for (size_t idx = 0; idx < 3; ++idx) {
    CHECK(trajectories[idx].at("index").as_int64() == static_cast<int64_t>(idx));
    CHECK(trajectories[idx].at("message").at("content").as_string() == "Perhaps 42.");
    CHECK(trajectories[idx].at("message").at("reasoning_content").as_string() == "Guess.");
    CHECK(trajectories[idx].at("finish_reason").as_string() == "stop");
  }
  // All four generations count; the final prompt finds the pages of the first.
  const json::value& usage = answer.at("usage");
  const int64_t one = plain.at("usage").at("completion_tokens").as_int64();
  CHECK(usage.at("completion_tokens").as_int64() > 3 * one);
  CHECK(usage.at("prompt_tokens").as_int64() >
        2 * plain.at("usage").at("prompt_tokens").as_int64());
  CHECK(usage.at("prompt_tokens_details").at("cached_tokens").as_int64() >= 2 * 256);
  // Rollouts share their prompt's pages: two full pages of it were not held three times.
  CHECK_FALSE(client.post(kChat, chat_body(question, R"("heavy":{"n":2})"))
                  .json()
                  .as_object()
                  .contains("trajectories"));
}

TEST_CASE("eight trajectories run unless another number is asked for", "[server][heavy]") {
  ServerFixture fixture(setup());
  Client client(fixture);
  const int64_t before = fixture.engine.stats().num_finished;
  CHECK(client.post(kChat, chat_body("hi", R"("heavy":true)")).status == 200);
  CHECK(eventually([&] { return fixture.engine.stats().num_finished == before + 9; }));
  CHECK(client.post(kChat, chat_body("hi", R"("heavy":false)")).status == 200);
  CHECK(eventually([&] { return fixture.engine.stats().num_finished == before + 10; }));
}

TEST_CASE("the final pass streams, kept alive while the rollouts run", "[server][heavy]") {
  ServerSetup slow = setup();
  slow.options.sse_keep_alive_interval = std::chrono::milliseconds(10);
  ServerFixture fixture(slow);
  fixture.model.set_step_time(std::chrono::milliseconds(3));
  Client client(fixture);
  const Response response = client.post(
      kChat, chat_body("hi", R"("heavy":{"n":2,"return_trajectories":true},"stream":true,
                                "stream_options":{"include_usage":true})"));
  CHECK(response.body.starts_with(": keep-alive\n\n"));
  const auto events = sse_events(response.body);
  const auto choices = add_up(events);
  REQUIRE(choices.size() == 1);
  CHECK(choices[0].content == "Forty-two.");
  CHECK(choices[0].reasoning == "Compare.");
  CHECK(choices[0].finish_reason == "stop");
  REQUIRE(events.size() >= 2);
  CHECK(events[events.size() - 2].at("trajectories").as_array().size() == 2);
  CHECK(events.back().at("usage").at("completion_tokens").as_int64() > 0);
}

TEST_CASE("a client that leaves ends all trajectories", "[server][heavy]") {
  ServerFixture fixture(setup());
  {
    Client client(fixture);
    client.send_request("POST", kChat, chat_body("endless", R"("heavy":{"n":4})"));
    CHECK(eventually([&] { return fixture.engine.stats().num_running == 4; }));
  }
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 0; }));
  CHECK(eventually([&] { return fixture.engine.stats().num_aborted == 4; }));
}

TEST_CASE("errors of either pass are the answer", "[server][heavy]") {
  // The prompt fits, with the attempts behind it it does not.
  ServerSetup small = setup();
  small.max_context_tokens = 1024;
  ServerFixture fixture(small);
  Client client(fixture);
  const Response too_long =
      client.post(kChat, chat_body("endless", R"("heavy":{"n":4},"max_tokens":400)"));
  CHECK(too_long.status == 400);
  CHECK(too_long.json().at("error").at("code").as_string() == "context_length_exceeded");
  for (const std::string_view bad :
       {R"("heavy":7)", R"("heavy":{"n":1})", R"("heavy":{"n":9})", R"("heavy":{"n":"x"})",
        R"("heavy":{"return_trajectories":1})", R"("heavy":true,"n":2)"}) {
    INFO(bad);
    CHECK(client.post(kChat, chat_body("hi", bad)).status == 400);
  }
  fixture.model.fail_next_step();
  // 503 when the engine has failed before it was asked for the second trajectory.
  const int status = client.post(kChat, chat_body("hi", R"("heavy":{"n":2})")).status;
  CHECK((status == 500 || status == 503));
}

}  // namespace
}  // namespace tandem::tests
