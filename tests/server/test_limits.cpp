// What one client can take from the others: bytes, time, connections, attention.
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

using std::chrono::milliseconds;

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kChatHead =
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";

TEST_CASE("a body of 100 MB is a 413, announced or in chunks", "[server][limits]") {
  ServerFixture fixture;
  {
    Client client(fixture);  // nothing of it is waited for
    client.send(std::string(kChatHead) + "Content-Length: 104857600\r\n\r\n{");
    CHECK(client.read_response().status == 413);
    CHECK(client.closed_by_server());
  }
  Client client(fixture);
  client.send(std::string(kChatHead) + "Transfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = "100000\r\n" + std::string(1 << 20, 'a') + "\r\n";
  for (int idx = 0; idx < 100; ++idx) client.send(chunk);
  CHECK(client.read_response().status == 413);
  Client other(fixture);
  CHECK(other.post(kChat, chat_body("hi")).status == 200);
}

TEST_CASE("bodies under way share one budget; who exceeds it is asked to come again",
          "[server][limits]") {
  ServerSetup setup;
  setup.options.max_total_body_size_bytes = 1 << 20;
  ServerFixture fixture(setup);
  const std::string most_of_a_body(700 << 10, ' ');
  const std::string whole_body(800000, ' ');
  const std::string head = std::string(kChatHead) + "Content-Length: 800000\r\n\r\n";
  Response refused;
  // Which of the two the server reads first is open: a whole body has an answer in any case.
  CHECK(eventually([&] {
    Client first(fixture);
    first.send(head + most_of_a_body);
    Client next(fixture);
    next.send(head + whole_body);
    refused = next.read_response();
    return refused.status == 503;
  }));
  CHECK(refused.headers.contains("retry-after"));
  CHECK(refused.json().at("error").at("code").as_string() == "overloaded");
  const std::string body = chat_body(std::string(700 << 10, 'a'), R"("max_tokens":1)");
  CHECK(eventually([&] {
    Client next(fixture);
    return next.post(kChat, body).status != 503;
  }));
}

TEST_CASE("announced bytes that do not come cost nothing", "[server][limits]") {
  ServerSetup setup;
  setup.options.max_total_body_size_bytes = 1 << 20;
  ServerFixture fixture(setup);
  std::vector<std::unique_ptr<Client>> clients;
  for (int idx = 0; idx < 20; ++idx) {
    clients.push_back(std::make_unique<Client>(fixture));
    clients.back()->send(std::string(kChatHead) + "Content-Length: 60000000\r\n\r\n{");
  }
  Client other(fixture);
  CHECK(other.post(kChat, chat_body("hi")).status == 200);
}

TEST_CASE("a body that trickles in too slowly is given up", "[server][limits]") {
  ServerSetup setup;
  setup.options.body_timeout = milliseconds(200);
  ServerFixture fixture(setup);
  Client client(fixture);
  client.send(std::string(kChatHead) + "Content-Length: 100000\r\n\r\n");
  std::atomic<bool> ends = false;
  std::thread dribble([&] {  // each byte comes in time; all of them would take hours
    while (!ends) {
      client.send("a");
      std::this_thread::sleep_for(milliseconds(20));
    }
  });
  CHECK(client.closed_by_server());
  ends = true;
  dribble.join();
}

TEST_CASE("an endless chunk extension ends in a 431", "[server][limits]") {
  ServerFixture fixture;
  Client client(fixture);
  client.send(std::string(kChatHead) + "Transfer-Encoding: chunked\r\n\r\n1;");
  const std::string piece(64 << 10, 'x');
  for (int idx = 0; idx < 8; ++idx) client.send(piece);
  CHECK(client.read_to_end().starts_with("HTTP/1.1 431"));
}

TEST_CASE("deep JSON is a 400 that says so, and no crash", "[server][limits]") {
  ServerFixture fixture;
  Client client(fixture);
  for (const char* opening : {"[", R"({"a":)"}) {
    std::string body = R"({"messages":)";
    for (int idx = 0; idx < 1'000'000; ++idx) body += opening;
    const Response response = client.post(kChat, body);
    CHECK(response.status == 400);
    CHECK(response.json().at("error").at("code").as_string() == "invalid_json");
  }
}

TEST_CASE("a request with half a character is answered", "[server][limits]") {
  ServerFixture fixture({.scripts = {{"caf\ufffd!", "understood"}}});
  Client client(fixture);
  for (const char* half : {"\\ud83d", "\\ude00", "\xff", "\xf0\x9f\x98"}) {
    const Response response = client.post(
        kChat, std::string(R"({"messages":[{"role":"user","content":"caf)") + half + R"(!"}]})");
    REQUIRE(response.status == 200);
    CHECK(response.body.find("understood") != std::string::npos);
  }
}

TEST_CASE("more choices than the queue takes are a 400, as no other time would do",
          "[server][limits]") {
  ServerSetup setup;
  setup.engine.max_queued_requests = 4;
  ServerFixture fixture(setup);
  Client client(fixture);
  const auto error = [&](const std::string& members) {
    const Response refused = client.post("/v1/completions", "{" + members + "}");
    CHECK(refused.status == 400);
    return refused.json().at("error");
  };
  const boost::json::value prompts = error(R"("prompt":["a","b","c"],"n":2)");
  CHECK(prompts.at("param").as_string() == "prompt");
  CHECK(prompts.at("message").as_string() ==
        "prompt: expected at most 4 choices in all, prompts times n (--max-queue), got 3 times 2");
  CHECK(error(R"("prompt":"a","n":5)").at("param").as_string() == "n");
  CHECK(client.post("/v1/completions", R"({"prompt":["a","b"],"n":2})").status == 200);
}

TEST_CASE("a full queue is a 429 that says when to come again", "[server][limits]") {
  ServerSetup setup{.scripts = {{"endless", "0123456789", true}, {"", "Hello!"}}};
  setup.engine.max_sequences = 1;
  setup.engine.max_queued_requests = 2;
  ServerFixture fixture(setup);
  fixture.model.set_step_time(milliseconds(1));
  Client running(fixture);
  running.send_request("POST", kChat, chat_body("endless"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  std::vector<std::unique_ptr<Client>> waiting;
  for (int idx = 0; idx < 2; ++idx) {
    waiting.push_back(std::make_unique<Client>(fixture));
    waiting.back()->send_request("POST", kChat, chat_body("hi"));
    CHECK(eventually([&] { return fixture.engine.stats().num_waiting == idx + 1; }));
  }
  Client late(fixture);
  const Response refused = late.post(kChat, chat_body("hi"));
  CHECK(refused.status == 429);
  CHECK(refused.headers.contains("retry-after"));
  CHECK(refused.json().at("error").at("type").as_string() == "rate_limit_error");
  running.close();
  for (const auto& client : waiting) CHECK(client->read_response().status == 200);
}

TEST_CASE("an answer carries the client's request id, or one of ours", "[server]") {
  ServerFixture fixture;
  Client client(fixture);
  const Response own = client.get("/health", {"X-Request-Id: trace-7"});
  CHECK(own.headers.at("x-request-id") == "trace-7");
  const Response streamed = client.post(kChat, chat_body("hi", R"("stream":true)"));
  CHECK(streamed.headers.at("x-request-id").starts_with("req-"));
  const Response failed = client.post(kChat, "{", {"X-Request-Id: " + std::string(300, 'x')});
  CHECK(failed.status == 400);
  CHECK(failed.headers.at("x-request-id").starts_with("req-"));
  CHECK(failed.headers.at("x-request-id") != streamed.headers.at("x-request-id"));
}

TEST_CASE("pages of this machine are let in only where nobody else can connect", "[server]") {
  server::CorsPolicy policy;
  policy.loopback_origins = true;
  for (const char* origin :
       {"http://localhost", "http://localhost:5173", "https://127.0.0.1:8080", "http://[::1]:1"}) {
    CHECK(allows_origin(policy, origin));
    CHECK_FALSE(allows_origin(server::CorsPolicy{}, origin));
  }
  for (const char* origin : {"", "null", "http://localhost.evil.example", "http://localhost:",
                             "http://localhost:80/x", "file://", "http://evil.example"}) {
    INFO(origin);
    CHECK_FALSE(allows_origin(policy, origin));
  }
  policy.origins = {"*"};
  CHECK(allows_origin(policy, "http://evil.example"));
}

TEST_CASE("a preflight hears which headers it may send", "[server]") {
  ServerSetup setup;
  setup.options.cors.origins = {"https://app.example"};
  ServerFixture fixture(setup);
  Client client(fixture);
  const auto preflight = [&](const std::string& headers) {
    client.send_request("OPTIONS", kChat, "",
                        {"Origin: https://app.example", "Access-Control-Request-Method: POST",
                         "Access-Control-Request-Headers: " + headers});
    return client.read_response();
  };
  const Response response = preflight("authorization,x-stainless-os");
  CHECK(response.status == 204);
  CHECK(response.headers.at("access-control-allow-origin") == "https://app.example");
  CHECK(response.headers.at("access-control-allow-headers") == "authorization,x-stainless-os");
  CHECK(response.headers.at("access-control-allow-methods").find("POST") != std::string::npos);
  CHECK(preflight("a\"b").headers.at("access-control-allow-headers").starts_with("Authorization"));
}

}  // namespace
}  // namespace tandem::tests
