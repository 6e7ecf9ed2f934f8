// Spans: which trace they belong to, what a collector gets, and that one that fails is no trouble.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/errors.h"
#include "server/tracing/span_exporter.h"
#include "server/tracing/trace_context.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

constexpr const char* kTrace = "0af7651916cd43dd8448eb211c80319c";
constexpr const char* kParent = "b7ad6b7169203331";

std::string traceparent(const std::string& flags, const std::string& version = "00") {
  return version + '-' + kTrace + '-' + kParent + '-' + flags;
}

// Takes one post a connection and answers with `answer`; "" keeps silent until the end.
class Collector {
 public:
  explicit Collector(std::string answer, int family = AF_INET)
      : answer_(std::move(answer)), host_(family == AF_INET ? "127.0.0.1" : "[::1]") {
    listener_ = socket(family, SOCK_STREAM, 0);
    sockaddr_in6 address{};  // the longer one; the port stands at the same place in both
    address.sin6_family = static_cast<sa_family_t>(family);
    if (family == AF_INET) {
      reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
      address.sin6_addr = in6addr_loopback;
    }
    socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0) {
      close(listener_);
      if (family == AF_INET6) SKIP("this machine has no IPv6 loopback");
      FAIL("no port to listen on");
    }
    REQUIRE(listen(listener_, 8) == 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin6_port);
    thread_ = std::thread([this] { run(); });
  }
  ~Collector() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    for (const int connection : silent_) close(connection);
    close(listener_);
  }
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  [[nodiscard]] std::string authority() const { return host_ + ":" + std::to_string(port_); }
  [[nodiscard]] std::string url() const { return "http://" + authority(); }
  std::vector<std::string> posts() {
    const std::lock_guard lock(mutex_);
    return posts_;
  }
  std::vector<json::value> spans() {
    std::vector<json::value> spans;
    for (const std::string& post : posts()) {
      const json::value body = json::parse(post.substr(post.find("\r\n\r\n") + 4));
      for (const json::value& span :
           body.at("resourceSpans").at(0).at("scopeSpans").at(0).at("spans").as_array()) {
        spans.push_back(span);
      }
    }
    return spans;
  }

 private:
  void run() {
    while (true) {
      const int connection = accept(listener_, nullptr, nullptr);
      if (connection < 0) return;
      std::string text;
      char piece[4096];
      while (!is_whole(text)) {
        const ssize_t num_read = recv(connection, piece, sizeof(piece), 0);
        if (num_read <= 0) break;
        text.append(piece, static_cast<size_t>(num_read));
      }
      {
        const std::lock_guard lock(mutex_);
        posts_.push_back(text);
      }
      if (answer_.empty()) {
        silent_.push_back(connection);
        continue;
      }
      send(connection, answer_.data(), answer_.size(), MSG_NOSIGNAL);
      close(connection);
    }
  }
  static bool is_whole(const std::string& text) {
    const size_t head_end = text.find("\r\n\r\n");
    const size_t length = text.find("Content-Length: ");
    return head_end != std::string::npos && length != std::string::npos &&
           text.size() >= head_end + 4 + std::stoul(text.substr(length + 16));
  }

  const std::string answer_, host_;
  int listener_ = -1;
  int port_ = 0;
  std::mutex mutex_;
  std::vector<std::string> posts_;
  std::vector<int> silent_;
  std::thread thread_;
};

constexpr const char* kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
constexpr const char* kFailure = "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n";

ServerSetup traced_by(const std::string& url) {
  ServerSetup setup;
  setup.options.otlp_traces_url = url;
  return setup;
}

json::value attribute(const json::value& span, std::string_view key) {
  for (const json::value& one : span.at("attributes").as_array()) {
    if (one.at("key").as_string() == key) return one.at("value").as_object().begin()->value();
  }
  return nullptr;
}

TEST_CASE("traceparent is read as the standard says, anything else begins a trace", "[server]") {
  const server::TraceContext context = server::trace_context_of(traceparent("01"));
  CHECK(context.trace_id == kTrace);
  CHECK(context.parent_span_id == kParent);
  CHECK(context.sampled);
  CHECK(context.span_id.size() == 16);
  CHECK_FALSE(server::trace_context_of(traceparent("00")).sampled);
  CHECK(server::trace_context_of(traceparent("01-more", "cc")).trace_id == kTrace);
  std::string no_trace = traceparent("01"), no_parent = traceparent("01"),
              upper = traceparent("01");
  no_trace.replace(3, 32, 32, '0');
  no_parent.replace(36, 16, 16, '0');
  upper[3] = 'A';
  for (const std::string& bad :
       {std::string(), std::string("01"), no_trace, no_parent, upper, traceparent("01", "ff"),
        traceparent("01-more"), traceparent("0g"), traceparent("01").substr(1) + "x"}) {
    INFO(bad);
    const server::TraceContext fresh = server::trace_context_of(bad);
    CHECK(fresh.trace_id.size() == 32);
    CHECK(fresh.trace_id != kTrace);
    CHECK(fresh.parent_span_id.empty());
    CHECK(fresh.sampled);
    CHECK(server::trace_context_of(bad).trace_id != fresh.trace_id);
  }
}

TEST_CASE("a collector gets a span of every request, children of the clients'", "[server]") {
  Collector collector(kOk);
  ServerFixture fixture(traced_by(collector.url()));
  Client client(fixture);
  CHECK(client
            .post("/v1/chat/completions", chat_body("hi", R"("temperature":0.5)"),
                  {"traceparent: " + traceparent("01")})
            .status == 200);
  CHECK(client.post("/v1/messages", R"({"messages":[]})").status == 400);
  CHECK(client.post("/v1/chat/completions", chat_body("hi"), {"traceparent: " + traceparent("00")})
            .status == 200);
  REQUIRE(eventually([&] { return collector.spans().size() >= 2; }));
  const std::vector<json::value> spans = collector.spans();
  REQUIRE(spans.size() == 2);
  CHECK(collector.posts()[0].starts_with("POST /v1/traces HTTP/1.1\r\n"));
  INFO(json::serialize(spans[0]));
  CHECK(spans[0].at("traceId").as_string() == kTrace);
  CHECK(spans[0].at("parentSpanId").as_string() == kParent);
  CHECK(spans[0].at("kind").as_int64() == 2);
  CHECK_FALSE(spans[0].as_object().contains("status"));
  const auto time = [&](const char* name) {
    return std::stoull(std::string(spans[0].at(name).as_string()));
  };
  CHECK(time("startTimeUnixNano") < time("endTimeUnixNano"));
  CHECK(attribute(spans[0], "url.path").as_string() == "/v1/chat/completions");
  CHECK(attribute(spans[0], "gen_ai.request.temperature").to_number<double>() == 0.5);
  CHECK(std::stoi(std::string(attribute(spans[0], "gen_ai.usage.completion_tokens").as_string())) >
        0);
  CHECK(attribute(spans[0], "gen_ai.latency.time_to_first_token").to_number<double>() <=
        attribute(spans[0], "gen_ai.latency.e2e").to_number<double>());
  CHECK(attribute(spans[1], "tandem.outcome").as_string() == "refused");
  CHECK(spans[1].at("status").at("code").as_int64() == 2);
  CHECK(spans[1].at("traceId").as_string() != kTrace);
}

TEST_CASE("a collector's address may be IPv6, and its Host header has the brackets", "[server]") {
  Collector collector(kOk, GENERATE(AF_INET, AF_INET6));
  ServerFixture fixture(traced_by(collector.url()));
  CHECK(Client(fixture).post("/v1/chat/completions", chat_body("hi")).status == 200);
  REQUIRE(eventually([&] { return !collector.posts().empty(); }));
  CHECK(collector.posts()[0].find("\r\nHost: " + collector.authority() + "\r\n") !=
        std::string::npos);
}

TEST_CASE("a collector's path, query and credentials are sent as the URL has them", "[server]") {
  Collector collector(kOk);
  size_t num_posts = 0;
  for (const std::string rest : {"/a%2Fb%20c/?key=%26&x", "/?key=1"}) {
    ServerFixture fixture(traced_by("http://me:p%40ss@" + collector.authority() + rest));
    CHECK(Client(fixture).post("/v1/chat/completions", chat_body("hi")).status == 200);
    ++num_posts;
    REQUIRE(eventually([&] { return collector.posts().size() == num_posts; }));
  }
  const std::vector<std::string> posts = collector.posts();
  CHECK(posts[0].starts_with("POST /a%2Fb%20c/?key=%26&x HTTP/1.1\r\n"));
  CHECK(posts[1].starts_with("POST /v1/traces?key=1 HTTP/1.1\r\n"));
  CHECK(posts[0].find("\r\nAuthorization: Basic bWU6cEBzcw==\r\n") != std::string::npos);
}

TEST_CASE("a collector that fails, hangs or is away costs its spans and nothing else", "[server]") {
  Collector failing(kFailure), silent("");
  const std::string nobody = "http://127.0.0.1:1";
  for (const std::string& url : {failing.url(), silent.url(), nobody}) {
    INFO(url);
    ServerFixture fixture(traced_by(url));
    Client client(fixture);
    for (int turn = 0; turn < 3; ++turn) {
      CHECK(client.post("/v1/chat/completions", chat_body("hi")).status == 200);
    }
    if (url == silent.url()) continue;
    CHECK(eventually([&] {
      const std::string metrics = client.get("/metrics").body;
      const size_t value = metrics.find("\ntandem:spans_dropped_total{");
      return value != std::string::npos && metrics.substr(metrics.find('}', value), 4) != "} 0\n";
    }));
  }
  CHECK_FALSE(failing.posts().empty());
  CHECK_FALSE(silent.posts().empty());
}

TEST_CASE("an endpoint that is no http URL is an error at the start", "[server]") {
  for (const std::string url :
       {"", "collector:4318", "https://collector", "http://", "grpc://c:1"}) {
    INFO(url);
    CHECK_THROWS_AS(server::SpanExporter({.url = url, .service_name = "t", .on_dropped = {}}),
                    ConfigError);
  }
}

}  // namespace
}  // namespace tandem::tests
