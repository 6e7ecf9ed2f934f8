// The access log: a line a request, but for the paths that are left out.
#include <spdlog/spdlog.h>

#include <catch2/catch_test_macros.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/server/server_fixture.h"
#include "tests/support/captured_log.h"

namespace tandem::tests {
namespace {

class AccessLog : public CapturedLog {
 public:
  // The line that holds `text`, once it is there.
  std::string line_with(const std::string& wanted) {
    std::string found;
    CHECK(eventually([&] {
      std::istringstream lines(text());
      for (std::string line; std::getline(lines, line);) {
        if (line.find(wanted) != std::string::npos) found = line;
      }
      return !found.empty();
    }));
    return found;
  }
};

bool has_all(const std::string& line, const std::vector<std::string>& parts) {
  INFO(line);
  for (const std::string& part : parts) {
    INFO(part);
    CHECK(line.find(part) != std::string::npos);
    if (line.find(part) == std::string::npos) return false;
  }
  return true;
}

TEST_CASE("every request has a line that says who, what and how it ended", "[server][log]") {
  AccessLog log;
  ServerSetup setup{.scripts = {{"endless", "0123456789", true}, {"", "Hello!"}}};
  ServerFixture fixture(setup);
  spdlog::set_level(spdlog::level::info);
  Client client(fixture);
  client.get("/v1/models?key=secret", {"X-Request-Id: first"});
  has_all(log.line_with("first"), {"127.0.0.1", "\"GET /v1/models\"", " 200 ", " s "});
  client.post("/v1/chat/completions", chat_body("hi"), {"X-Request-Id: second"});
  has_all(log.line_with("second"), {"\"POST /v1/chat/completions\"", " 200 "});
  client.post("/v1/chat/completions", "{", {"X-Request-Id: third"});
  has_all(log.line_with("third"), {" 400 "});
  client.get("/no%0apath\xe9\"", {"X-Request-Id: fourth"});
  has_all(log.line_with("fourth"), {"\"GET /no%0apath??\"", " 404 "});
  {
    Client leaving(fixture);
    leaving.send_request("POST", "/v1/chat/completions", chat_body("endless"),
                         {"X-Request-Id: fifth"});
    CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  }
  has_all(log.line_with("fifth"), {"\"POST /v1/chat/completions\"", " gone "});
  Client malformed(fixture);
  malformed.send("NONSENSE\r\n\r\n");
  malformed.read_to_end();
  has_all(log.line_with(" 400 0.0"), {"127.0.0.1"});
  CHECK_FALSE(log.has("secret"));
}

TEST_CASE("the paths that are named have no line", "[server][log]") {
  AccessLog log;
  ServerSetup setup;
  setup.options.unlogged_paths = {"/health", "/metrics"};
  ServerFixture fixture(setup);
  spdlog::set_level(spdlog::level::info);
  Client client(fixture);
  client.get("/health?x=1");
  client.get("/metrics");
  client.get("/health_generate");
  client.get("/version", {"X-Request-Id: last"});
  log.line_with("last");
  CHECK(log.has("/health_generate"));
  CHECK_FALSE(log.has("/health "));
  CHECK_FALSE(log.has("/health\""));
  CHECK_FALSE(log.has("/metrics"));
}

}  // namespace
}  // namespace tandem::tests
