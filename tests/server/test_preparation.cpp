// Grammars that take long to compile: what they hold up, and what becomes of those that wait.
#include <spdlog/sinks/sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "server/request_threads.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

using server::RequestThreads;

constexpr const char* kChat = "/v1/chat/completions";

// A preparation ends with a line that says what of the tool's schema is not enforced. Whoever
// writes it for a tool "slow..." waits there until release(): a compilation that takes as long.
class GrammarGate : public spdlog::sinks::sink {
 public:
  void log(const spdlog::details::log_msg& message) override {
    constexpr std::string_view kCompiled = "tools: not enforced in ";
    const std::string_view line(message.payload.data(), message.payload.size());
    if (!line.starts_with(kCompiled)) return;
    const std::string_view what = line.substr(kCompiled.size());
    std::unique_lock lock(mutex_);
    compiled_.emplace_back(what.substr(0, what.find(':')));
    if (compiled_.back().starts_with("slow")) released_.wait(lock, [this] { return is_released_; });
  }
  void flush() override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

  void release() {
    const std::lock_guard lock(mutex_);
    is_released_ = true;
    released_.notify_all();
  }
  int num_compiled(const std::string& prefix) {
    const std::lock_guard lock(mutex_);
    return static_cast<int>(
        std::count_if(compiled_.begin(), compiled_.end(),
                      [&](const std::string& tool) { return tool.starts_with(prefix); }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable released_;
  bool is_released_ = false;
  std::vector<std::string> compiled_;  // tools, as their lines came
};

// The log's way through a gate while it lives. Made before what logs.
class GatedLog {
 public:
  GatedLog() : before_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("gated", gate));
  }
  ~GatedLog() { spdlog::set_default_logger(before_); }
  GatedLog(const GatedLog&) = delete;
  GatedLog& operator=(const GatedLog&) = delete;

  const std::shared_ptr<GrammarGate> gate = std::make_shared<GrammarGate>();

 private:
  const std::shared_ptr<spdlog::logger> before_;
};

std::string body_with_tool(const std::string& name) {
  return chat_body("hi", R"("tools":[{"type":"function","function":{"name":")" + name +
                             R"(","parameters":{"type":"object","properties":)" +
                             R"({"tags":{"type":"array","uniqueItems":true}}}}}])");
}

constexpr const char* kKnownText = R"({"prompt":"a","max_tokens":1,"guided_choice":["b"]})";

// A server all of whose threads for preparations are taken. It knows the grammars of kKnownText and
// of a tool "known".
class BusyServer {
 public:
  BusyServer() {
    spdlog::set_level(spdlog::level::debug);
    CHECK(Client(fixture).post(kChat, body_with_tool("known")).status == 200);
    CHECK(Client(fixture).post("/v1/completions", kKnownText).status == 200);
    for (int idx = 0; idx < RequestThreads::kNumPreparing; ++idx) {
      slow.push_back(std::make_unique<Client>(fixture));
      slow.back()->send_request("POST", kChat, body_with_tool("slow" + std::to_string(idx)));
    }
    CHECK(eventually([&] { return num_compiled("slow") == RequestThreads::kNumPreparing; }));
  }
  ~BusyServer() { release(); }
  BusyServer(const BusyServer&) = delete;
  BusyServer& operator=(const BusyServer&) = delete;

  void release() { log_.gate->release(); }
  int num_compiled(const std::string& prefix) { return log_.gate->num_compiled(prefix); }
  // There is one io thread: what lay before it when these came, it has seen when it answers.
  void see_all() {
    Client client(fixture);
    for (int idx = 0; idx < 3; ++idx) CHECK(client.get("/health").status == 200);
  }

 private:
  GatedLog log_;

 public:
  ServerFixture fixture;
  std::vector<std::unique_ptr<Client>> slow;
};

TEST_CASE("a large body does not wait for grammars that are being compiled",
          "[server][preparation]") {
  BusyServer busy;
  Client client(busy.fixture);
  const std::string body = chat_body("hi") + std::string(64 << 10, ' ');
  CHECK(client.post(kChat, body).status == 200);
  busy.release();
  for (const auto& slow : busy.slow) CHECK(slow->read_response().status == 200);
}

TEST_CASE("a grammar that is known, or has no text, does not wait for others",
          "[server][preparation]") {
  BusyServer busy;
  Client client(busy.fixture);
  CHECK(client.post(kChat, body_with_tool("known")).status == 200);
  CHECK(busy.num_compiled("known") == 1);
  CHECK(client.post(kChat, chat_body("hi", R"("thinking_budget":3)")).status == 200);
  CHECK(client.post("/v1/completions", kKnownText).status == 200);
}

TEST_CASE("the grammar of a client that left before its turn is not compiled",
          "[server][preparation]") {
  BusyServer busy;
  {
    Client leaving(busy.fixture);
    leaving.send_request("POST", kChat, body_with_tool("left"));
  }
  Client next(busy.fixture);
  next.send_request("POST", kChat, body_with_tool("next"));
  busy.see_all();
  busy.release();
  CHECK(next.read_response().status == 200);
  CHECK(busy.num_compiled("next") == 1);
  CHECK(busy.num_compiled("left") == 0);
}

TEST_CASE("a server that stops cuts its clients at once and compiles no grammar that waits",
          "[server][preparation]") {
  BusyServer busy;
  Client waiting(busy.fixture);
  waiting.send_request("POST", kChat, body_with_tool("waiting"));
  busy.see_all();
  std::thread stop([&] { busy.fixture.server.stop(); });
  for (const auto& slow : busy.slow) CHECK(slow->closed_by_server());
  CHECK(waiting.closed_by_server());
  busy.release();
  stop.join();
  CHECK(busy.num_compiled("waiting") == 0);
}

}  // namespace
}  // namespace tandem::tests
