#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

using std::chrono::milliseconds;

constexpr const char* kChat = "/v1/chat/completions";

ServerSetup endless() {
  ServerSetup setup{.scripts = {{"", "0123456789", true}}};
  setup.num_kv_pages = 16384;
  setup.max_context_tokens = 1 << 19;
  return setup;
}

TEST_CASE("a client that leaves a stream stops the generation", "[server][connections]") {
  ServerFixture fixture(endless());
  fixture.model.set_step_time(milliseconds(1));
  Client client(fixture);
  client.send_request("POST", kChat, chat_body("go", R"("stream":true)"));
  CHECK(client.read_some().starts_with("HTTP/1.1 200"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  client.close();
  CHECK(eventually([&] { return fixture.engine.stats().num_aborted == 1; }));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 0; }));
}

TEST_CASE("a client that leaves before an unstreamed answer stops it, too",
          "[server][connections]") {
  ServerFixture fixture(endless());
  fixture.model.set_step_time(milliseconds(1));
  Client client(fixture);
  client.send_request("POST", kChat, chat_body("go"));
  CHECK(eventually([&] { return fixture.engine.stats().generated_tokens > 3; }));
  client.close();
  CHECK(eventually([&] { return fixture.engine.stats().num_aborted == 1; }));
}

TEST_CASE("all choices of a client that leaves are stopped", "[server][connections]") {
  ServerFixture fixture(endless());
  fixture.model.set_step_time(milliseconds(1));
  Client client(fixture);
  client.send_request("POST", kChat, chat_body("go", R"("n":4,"stream":true)"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 4; }));
  client.close();
  CHECK(eventually([&] { return fixture.engine.stats().num_aborted == 4; }));
}

TEST_CASE("a client that does not read is cut off and holds up nobody", "[server][connections]") {
  ServerSetup setup = endless();
  setup.options.max_buffered_events = 256;
  ServerFixture fixture(setup);
  fixture.model.set_step_time(std::chrono::microseconds(50));  // the io thread is not what is slow
  Client slow(fixture, 4096);
  slow.send_request("POST", kChat, chat_body("go", R"("stream":true)"));
  CHECK(eventually([&] { return fixture.engine.stats().num_aborted == 1; }));
  Client other(fixture);
  CHECK(other.post(kChat, chat_body("go", R"("max_tokens":5)")).status == 200);
  // What was written before is there, and then the connection ends without [DONE].
  const std::string all = slow.read_to_end();
  CHECK(all.starts_with("HTTP/1.1 200"));
  CHECK(all.find("[DONE]") == std::string::npos);
}

TEST_CASE("comments keep a silent stream alive", "[server][connections]") {
  ServerSetup setup;
  setup.options.sse_keep_alive_interval = milliseconds(20);
  ServerFixture fixture(setup);
  fixture.model.hold();
  Client client(fixture);
  client.send_request("POST", kChat, chat_body("hi", R"("stream":true)"));
  std::string head;
  while (head.find(": keep-alive\n\n") == std::string::npos) {
    const std::string piece = client.read_some();
    REQUIRE_FALSE(piece.empty());
    head += piece;
  }
  fixture.model.release();
  std::string rest;
  while (rest.find("[DONE]") == std::string::npos) {
    const std::string piece = client.read_some();
    REQUIRE_FALSE(piece.empty());
    rest += piece;
  }
  CHECK(rest.find("\"finish_reason\":\"stop\"") != std::string::npos);
}

TEST_CASE("pings keep a silent stream of Anthropic's alive", "[server][connections]") {
  ServerSetup setup;
  setup.options.sse_keep_alive_interval = milliseconds(20);
  ServerFixture fixture(setup);
  fixture.model.hold();
  Client client(fixture);
  client.send_request("POST", "/v1/messages", chat_body("hi", R"("stream":true,"max_tokens":9)"));
  std::string text;
  const auto read_until = [&](std::string_view part) {
    while (text.find(part) == std::string::npos) {
      const std::string piece = client.read_some();
      REQUIRE_FALSE(piece.empty());
      text += piece;
    }
  };
  read_until("event: ping\ndata: {\"type\":\"ping\"}\n\n");
  fixture.model.release();
  read_until("event: message_stop\n");
}

TEST_CASE("pipelined requests are answered in order", "[server][connections]") {
  ServerFixture fixture({.scripts = {{"one", "first"}, {"two", "second"}, {"", "other"}}});
  fixture.model.hold();
  Client client(fixture);
  client.send_request("POST", kChat, chat_body("one"));
  CHECK(eventually([&] {
    const EngineStats stats = fixture.engine.stats();
    return stats.num_running + stats.num_waiting == 1;
  }));
  client.send_request("POST", kChat, chat_body("two", R"("stream":true)"));
  client.send_request("GET", "/health");
  fixture.model.release();
  CHECK(client.read_response().body.find("first") != std::string::npos);
  const auto streamed = add_up(sse_events(client.read_response().body));
  CHECK(streamed.at(0).content == "second");
  CHECK(client.read_response().json().at("status").as_string() == "ok");
}

TEST_CASE("a pipelining client that leaves is noticed", "[server][connections]") {
  ServerFixture fixture(endless());
  fixture.model.set_step_time(milliseconds(1));
  Client client(fixture);
  client.send_request("POST", kChat, chat_body("one"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  client.send_request("GET", "/health");
  std::this_thread::sleep_for(milliseconds(20));
  client.close();
  CHECK(eventually([&] { return fixture.engine.stats().num_aborted == 1; }));
}

TEST_CASE("a body may come in pieces, in chunks and after 100-continue", "[server][connections]") {
  ServerFixture fixture;
  Client client(fixture);
  const std::string body = chat_body("hi");
  const std::string head =
      "POST " + std::string(kChat) + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  for (const char byte :
       head + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body) {
    client.send(std::string_view(&byte, 1));
  }
  CHECK(client.read_response().status == 200);

  client.send(head + "Transfer-Encoding: chunked\r\n\r\n");
  const size_t half = body.size() / 2;
  for (const std::string& piece : {body.substr(0, half), body.substr(half)}) {
    char size[16];
    std::snprintf(size, sizeof size, "%zx\r\n", piece.size());
    client.send(size + piece + "\r\n");
  }
  client.send("0\r\n\r\n");
  CHECK(client.read_response().status == 200);

  client.send(head + "Expect: 100-continue\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n");
  CHECK(client.read_some() == "HTTP/1.1 100 Continue\r\n\r\n");
  client.send(body);
  CHECK(client.read_response().status == 200);
}

TEST_CASE("HTTP/1.0 gets its answer and the end of the connection", "[server][connections]") {
  ServerFixture fixture;
  const std::string body = chat_body("hi", R"("stream":true)");
  Client client(fixture);
  client.send("POST " + std::string(kChat) +
              " HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  const std::string all = client.read_to_end();
  CHECK(all.starts_with("HTTP/1.0 200 OK"));
  CHECK(all.find("chunked") == std::string::npos);
  CHECK(all.ends_with("data: [DONE]\n\n"));
}

TEST_CASE("malformed HTTP is a 400 and the end of the connection", "[server][connections]") {
  ServerFixture fixture;
  const std::vector<std::string> requests = {
      "nonsense\r\n\r\n",
      "GET / HTTP/3.7\r\n\r\n",
      "GET /health HTTP/1.1\r\nno colon\r\n\r\n",
      "GET /health HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
      "POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      std::string("GET /\0 HTTP/1.1\r\n\r\n", 19),
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS hello \r\n\r\n",
  };
  for (const std::string& request : requests) {
    INFO(request.substr(0, 40));
    Client client(fixture);
    client.send(request);
    const std::string answer = client.read_to_end();
    CHECK(answer.starts_with("HTTP/1.1 400 Bad Request"));
    CHECK(answer.find("\"error\":{\"object\":\"error\"") != std::string::npos);
  }
  Client client(fixture);
  CHECK(client.get("/health").status == 200);
}

TEST_CASE("a body in another coding than chunked is refused, and never taken for a request",
          "[server][connections]") {
  ServerFixture fixture;
  const auto answer_to = [&](const std::string& fields) {
    Client client(fixture);
    client.send("POST /v1/messages/count_tokens HTTP/1.1\r\nHost: x\r\n" + fields +
                "\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n");
    return client.read_to_end();
  };
  for (const char* codings : {"identity", "xchunked", "gzip", "chunked, identity",
                              "identity\r\nTransfer-Encoding: chunked"}) {
    INFO(codings);
    const std::string answer = answer_to(std::string("Transfer-Encoding: ") + codings);
    CHECK(answer.starts_with("HTTP/1.1 400 Bad Request"));
    CHECK(answer.find("Transfer-Encoding: expected chunked, got ") != std::string::npos);
    CHECK(answer.find("Connection: close") != std::string::npos);
    CHECK(answer.find("\"version\"") == std::string::npos);
  }
  const std::string unknown = answer_to("Transfer-Encoding: gzip, Chunked");
  CHECK(unknown.starts_with("HTTP/1.1 501 Not Implemented"));
  CHECK(unknown.find("\"version\"") == std::string::npos);
}

TEST_CASE("a request has one Host, in HTTP/1.0 none is enough", "[server][connections]") {
  ServerFixture fixture;
  const auto answer_to = [&](const std::string& request) {
    Client client(fixture);
    client.send("GET /version " + request + "Connection: close\r\n\r\n");
    return client.read_to_end();
  };
  CHECK(answer_to("HTTP/1.1\r\nHost:\r\n").starts_with("HTTP/1.1 200"));
  CHECK(answer_to("HTTP/1.0\r\n").starts_with("HTTP/1.0 200"));
  for (const char* request : {"HTTP/1.1\r\n", "HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
                              "HTTP/1.0\r\nHost: a\r\nHost: a\r\n"}) {
    const std::string answer = answer_to(request);
    INFO(answer);
    CHECK(answer.substr(8).starts_with(" 400 Bad Request"));
    CHECK(answer.find("Host: expected one") != std::string::npos);
  }
}

TEST_CASE("too large a body is a 413, announced or not", "[server][connections]") {
  ServerSetup setup;
  setup.options.max_body_size_bytes = 1000;
  ServerFixture fixture(setup);
  {
    Client client(fixture);
    const Response response = client.post(kChat, chat_body(std::string(5'000'000, 'a')));
    CHECK(response.status == 413);
    CHECK(response.json().at("error").at("message").as_string() ==
          "body: expected at most 1000 bytes, got more");
    CHECK(client.closed_by_server());
  }
  Client client(fixture);
  client.send("POST " + std::string(kChat) +
              " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  client.send("800\r\n" + std::string(0x800, 'a') + "\r\n");
  CHECK(client.read_response().status == 413);
  Client small(fixture);
  CHECK(small.post(kChat, chat_body("hi")).status == 200);
}

TEST_CASE("a head that is refused is answered as far as it came", "[server][connections]") {
  ServerSetup setup;
  setup.options.max_body_size_bytes = 1000;
  setup.options.cors.origins = {"https://app.example"};
  ServerFixture fixture(setup);
  const std::string head =
      "POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-7\r\n"
      "Origin: https://app.example\r\n";
  const std::string large = "Content-Length: 2000\r\n\r\n";
  const std::string flood = "X: " + std::string(100'000, 'a') + "\r\n\r\n";
  for (const auto& [rest, status] : {std::pair(large, 413), std::pair(flood, 431),
                                     std::pair(std::string("no colon\r\n\r\n"), 400)}) {
    Client client(fixture);
    client.send(head + rest);
    const Response response = client.read_response();
    CHECK(response.status == status);
    CHECK(response.json().at("type").as_string() == "error");  // Anthropic's
    CHECK(response.headers.at("x-request-id") == "mine-7");
    CHECK(response.headers.at("access-control-allow-origin") == "https://app.example");
  }
  Client client(fixture);
  client.send("nonsense\r\n\r\n");
  CHECK(client.read_response().headers.at("x-request-id").starts_with("req-"));
  const std::string metrics = Client(fixture).get("/metrics").body;
  CHECK(metrics.find("route=\"/v1/messages\",status=\"413\"") != std::string::npos);
}

TEST_CASE("too many header bytes are a 431", "[server][connections]") {
  ServerFixture fixture;
  Client client(fixture);
  std::string request = "GET /health HTTP/1.1\r\n";
  for (int idx = 0; idx < 2000; ++idx) request += "X-Flood-" + std::to_string(idx) + ": yes\r\n";
  client.send(request);
  CHECK(client.read_to_end().starts_with("HTTP/1.1 431"));
}

TEST_CASE("clients that dribble are dropped", "[server][connections]") {
  ServerSetup setup;
  setup.options.header_timeout = milliseconds(50);
  setup.options.body_timeout = milliseconds(50);
  setup.options.keep_alive_timeout = std::chrono::seconds(1);
  ServerFixture fixture(setup);
  Client header(fixture);
  header.send("GET /hea");
  Client body(fixture);
  body.send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
  Client idle(fixture);
  CHECK(header.closed_by_server());
  CHECK(body.closed_by_server());
  CHECK(idle.closed_by_server());
}

TEST_CASE("one connection too many is told so", "[server][connections]") {
  ServerSetup setup;
  setup.options.max_connections = 2;
  ServerFixture fixture(setup);
  auto first = std::make_unique<Client>(fixture);
  Client second(fixture);
  CHECK(first->get("/health").status == 200);
  CHECK(second.get("/health").status == 200);
  {
    Client third(fixture);
    const Response refused = third.read_response();
    CHECK(refused.status == 503);
    CHECK(refused.headers.contains("retry-after"));
  }
  first.reset();
  CHECK(eventually([&] {
    Client next(fixture);
    next.send_request("GET", "/health", "", {"Connection: close"});
    return next.read_to_end().starts_with("HTTP/1.1 200");
  }));
}

TEST_CASE("drain lets a running answer end and turns new ones away", "[server][connections]") {
  ServerSetup setup = endless();
  ServerFixture fixture(setup);
  fixture.model.set_step_time(milliseconds(2));
  Client idle(fixture);
  CHECK(idle.get("/health").status == 200);
  Client running(fixture);
  running.send_request("POST", kChat, chat_body("go", R"("stream":true,"max_tokens":100)"));
  std::string streamed = running.read_some();
  REQUIRE(streamed.starts_with("HTTP/1.1 200"));
  std::thread drain([&] { fixture.server.drain(); });
  CHECK(idle.closed_by_server());
  for (std::string piece = running.read_some(); !piece.empty(); piece = running.read_some()) {
    streamed += piece;
    if (streamed.find("[DONE]") != std::string::npos) break;
  }
  CHECK(streamed.find("\"finish_reason\":\"length\"") != std::string::npos);
  CHECK(streamed.find("[DONE]") != std::string::npos);
  drain.join();
  CHECK(fixture.engine.stats().num_aborted == 0);
}

TEST_CASE("drain cuts what does not end in time", "[server][connections]") {
  ServerSetup setup = endless();
  setup.options.drain_timeout = std::chrono::seconds(1);
  ServerFixture fixture(setup);
  fixture.model.set_step_time(milliseconds(2));
  Client running(fixture);
  running.send_request("POST", kChat, chat_body("go", R"("stream":true)"));
  CHECK(running.read_some().starts_with("HTTP/1.1 200"));
  const auto begin = std::chrono::steady_clock::now();
  fixture.server.drain();  // would not come back before the endless answer
  CHECK(std::chrono::steady_clock::now() - begin >= milliseconds(900));
}

TEST_CASE("stop ends a drain that waits", "[server][connections]") {
  ServerFixture fixture(endless());
  fixture.model.set_step_time(milliseconds(2));
  Client running(fixture);
  running.send_request("POST", kChat, chat_body("go", R"("stream":true)"));
  CHECK(running.read_some().starts_with("HTTP/1.1 200"));
  std::thread drain([&] { fixture.server.drain(); });
  std::this_thread::sleep_for(milliseconds(50));
  fixture.server.stop();
  drain.join();
  CHECK(running.read_to_end().find("[DONE]") == std::string::npos);
}

TEST_CASE("a server goes away under running streams without harm", "[server][connections]") {
  for (int round = 0; round < 3; ++round) {
    auto fixture = std::make_unique<ServerFixture>(endless());
    std::vector<std::unique_ptr<Client>> clients;
    for (int idx = 0; idx < 8; ++idx) {
      clients.push_back(std::make_unique<Client>(*fixture));
      clients.back()->send_request("POST", kChat,
                                   chat_body("go", idx % 2 == 0 ? R"("stream":true)" : ""));
    }
    CHECK(eventually([&] { return fixture->engine.stats().num_running == 8; }));
    fixture.reset();
    for (const auto& client : clients)
      CHECK(client->read_to_end().find("[DONE]") == std::string::npos);
  }
}

}  // namespace
}  // namespace tandem::tests
