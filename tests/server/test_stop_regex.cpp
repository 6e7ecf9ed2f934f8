// stop_regex in chat and completions, whole and streamed.
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "tests/server/exchange_player.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

const std::vector<Script>& scripts() {
  static const std::vector<Script> all = {
      {"think", "<think>7 or 12?</think>It is 12, I think."},
      {"aaaa", std::string(400, 'a')},
      {"", "The year 1969 it was."},
  };
  return all;
}

TEST_CASE("stop_regex ends content, not thinking, and is named as what stopped it", "[server]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  for (const bool include : {false, true}) {
    const std::string extra = std::string(R"("temperature":0,"stop_regex":["zzz","[0-9]{2},"])") +
                              (include ? R"(,"no_stop_trim":true)" : "");
    const std::string expected = include ? "It is 12," : "It is ";
    const Response response = client.post("/v1/chat/completions", chat_body("think", extra));
    INFO(response.body);
    REQUIRE(response.status == 200);
    const json::value choice = response.json().at("choices").at(0);
    CHECK(choice.at("message").at("reasoning_content").as_string() == "7 or 12?");
    CHECK(choice.at("message").at("content").as_string() == expected);
    CHECK(choice.at("finish_reason").as_string() == "stop");
    CHECK(choice.at("stop_reason").as_string() == "[0-9]{2},");
    const Response streamed =
        client.post("/v1/chat/completions", chat_body("think", extra + R"(,"stream":true)"));
    const auto added_up = add_up(sse_events(streamed.body));
    REQUIRE(added_up.size() == 1);
    CHECK(added_up[0].content == expected);
    CHECK(added_up[0].finish_reason == "stop");
  }
}

TEST_CASE("stop_regex in completions", "[server]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const Response response = client.post(
      "/v1/completions",
      R"({"prompt":"when?","max_tokens":50,"temperature":0,"stop_regex":"[0-9]+","stop":"9"})");
  INFO(response.body);
  REQUIRE(response.status == 200);
  const json::value choice = response.json().at("choices").at(0);
  CHECK(choice.at("text").as_string() == "The year ");
  CHECK(choice.at("stop_reason").as_string() == "[0-9]+");
  const Response rendered =
      client.post("/v1/completions/render", R"({"prompt":"when?","stop_regex":"[0-9]+"})");
  CHECK(rendered.body.find(R"("stop_regex":["[0-9]+"])") != std::string::npos);
}

TEST_CASE("a pattern too costly for its answer fails that request alone, and names itself",
          "[server]") {
  ServerFixture fixture({.scripts = scripts()});
  Client client(fixture);
  const std::string extra = R"s("temperature":0,"stop_regex":"(a|aa)+[bc]\\1")s";
  const Response response = client.post("/v1/chat/completions", chat_body("aaaa", extra));
  INFO(response.body);
  CHECK(response.status == 400);
  CHECK(response.json().at("error").at("param").as_string() == "stop_regex");
  CHECK(response.json().at("error").at("message").as_string().find("too many steps") !=
        std::string::npos);
  const Response streamed =
      client.post("/v1/chat/completions", chat_body("aaaa", extra + R"(,"stream":true)"));
  CHECK(streamed.body.find("too many steps") != std::string::npos);
  Client other(fixture);  // a stream that breaks off ends its connection
  const Response text = other.post(
      "/v1/completions",
      R"s({"prompt":"aaaa","max_tokens":300,"temperature":0,"stop_regex":"(a|aa)+[bc]\\1"})s");
  CHECK(text.status == 400);
  const Response next = other.post("/v1/chat/completions", chat_body("hi", R"("temperature":0)"));
  CHECK(next.status == 200);
}

}  // namespace
}  // namespace tandem::tests
