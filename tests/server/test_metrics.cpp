#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "server/metrics/metrics.h"
#include "tests/server/server_fixture.h"

namespace tandem::tests {
namespace {

constexpr const char* kChat = "/v1/chat/completions";

// The value of one series, -1 when the text lacks it.
double value_of(const std::string& text, const std::string& series) {
  const size_t begin = text.find("\n" + series + " ");
  if (begin == std::string::npos) return -1.0;
  return std::strtod(text.c_str() + begin + series.size() + 2, nullptr);
}

std::string labelled(const std::string& name, const std::string& more = "") {
  return "tandem:" + name + "{model_name=\"tiny\"" + (more.empty() ? "" : "," + more) + "}";
}

TEST_CASE("metrics count what was asked, what came and how it ended", "[server][metrics]") {
  ServerSetup setup{.scripts = {{"end", "0123456789"}, {"", "0123456789", true}}};
  ServerFixture fixture(setup);
  Client client(fixture);
  const std::string fresh = client.get("/metrics").body;
  CHECK(value_of(fresh, labelled("num_requests_running")) == 0);
  CHECK(value_of(fresh, labelled("time_to_first_token_seconds_count")) == 0);

  CHECK(client.post(kChat, chat_body("end")).status == 200);                         // stop
  CHECK(client.post(kChat, chat_body("go", R"("max_tokens":7)")).status == 200);     // length
  CHECK(client.post(kChat, chat_body("go", R"("stop":"56","n":2)")).status == 200);  // two stops
  CHECK(client.post(kChat, "{").status == 400);
  {
    Client leaves(fixture);
    leaves.send_request("POST", kChat, chat_body("go", R"("stream":true)"));
    CHECK(leaves.read_some().starts_with("HTTP/1.1 200"));
  }
  CHECK(eventually([&] {
    const EngineStats stats = fixture.engine.stats();
    return stats.num_finished + stats.num_aborted == 5;
  }));
  const Response response = client.get("/metrics");
  CHECK(response.headers.at("content-type").starts_with("text/plain; version=0.0.4"));
  const std::string& text = response.body;
  const auto ended = [&](const std::string& reason) {
    return value_of(text, "tandem:request_success_total{finished_reason=\"" + reason +
                              "\",model_name=\"tiny\"}");
  };
  CHECK(ended("stop") == 3);
  CHECK(ended("length") == 1);
  CHECK(ended("abort") == 1);
  CHECK(ended("error") == 0);
  CHECK(value_of(text, labelled("time_to_first_token_seconds_count")) == 5);
  CHECK(value_of(text, labelled("e2e_request_latency_seconds_count")) == 5);
  CHECK(value_of(text, labelled("request_queue_time_seconds_count")) == 5);
  CHECK(value_of(text, labelled("inter_token_latency_seconds_count")) >= 9 + 6 + 12);
  const EngineStats stats = fixture.engine.stats();
  CHECK(value_of(text, labelled("prompt_tokens_total")) ==
        static_cast<double>(stats.prompt_tokens));
  CHECK(value_of(text, labelled("generation_tokens_total")) ==
        static_cast<double>(stats.generated_tokens));
  CHECK(value_of(text, labelled("prefix_cache_hits_total")) ==
        static_cast<double>(stats.cached_tokens));
  CHECK(value_of(text, labelled("http_responses_total",
                                R"(route="/v1/chat/completions",status="400")")) == 1);
  CHECK(value_of(text, labelled("http_responses_total",
                                R"(route="/v1/chat/completions",status="200")")) == 4);
}

TEST_CASE("metrics tell time in the queue from time to the first token", "[server][metrics]") {
  ServerSetup setup{.scripts = {{"endless", "0123456789", true}, {"", "Hello!"}}};
  setup.engine.max_sequences = 1;
  ServerFixture fixture(setup);
  fixture.model.set_step_time(std::chrono::milliseconds(5));
  Client first(fixture);
  Client second(fixture);
  first.send_request("POST", kChat, chat_body("endless"));
  CHECK(eventually([&] { return fixture.engine.stats().num_running == 1; }));
  second.send_request("POST", kChat, chat_body("hi"));
  CHECK(eventually([&] { return fixture.engine.stats().num_waiting == 1; }));
  const std::string waiting = Client(fixture).get("/metrics").body;
  CHECK(value_of(waiting, labelled("num_requests_waiting")) == 1);
  CHECK(value_of(waiting, labelled("kv_cache_usage_perc")) > 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(40));
  first.close();
  CHECK(second.read_response().status == 200);
  const std::string text = Client(fixture).get("/metrics").body;
  const double queued_s = value_of(text, labelled("request_queue_time_seconds_sum"));
  CHECK(queued_s >= 0.04);
  CHECK(value_of(text, labelled("time_to_first_token_seconds_sum")) > queued_s);
}

TEST_CASE("metrics say what is kept beside the model's memory", "[server][metrics]") {
  EngineStats stats;
  stats.restored_tokens = 128;
  stats.kv_host_pages_used = 3;
  stats.kv_host_pages_total = 40;
  stats.kv_disk_size_bytes = 5'000'000'000;
  stats.kv_disk_limit_bytes = int64_t{100} << 30;
  stats.kv_disk_pages_read = 7;
  stats.kv_disk_pages_written = 11;
  stats.kv_disk_failures = 2;
  const std::string text = server::Metrics("tiny").text(stats);
  CHECK(value_of(text, labelled("external_prefix_cache_hits_total")) == 128);
  CHECK(value_of(text, labelled("kv_host_used_pages")) == 3);
  CHECK(value_of(text, labelled("kv_host_limit_pages")) == 40);
  CHECK(value_of(text, labelled("kv_disk_used_bytes")) == 5e9);
  CHECK(value_of(text, labelled("kv_disk_limit_bytes")) == 107374182400.0);
  CHECK(value_of(text, labelled("kv_disk_pages_read_total")) == 7);
  CHECK(value_of(text, labelled("kv_disk_pages_written_total")) == 11);
  CHECK(value_of(text, labelled("kv_disk_failures_total")) == 2);
  CHECK(text.find("# TYPE tandem:kv_host_used_pages gauge") != std::string::npos);
  CHECK(text.find("# TYPE tandem:kv_disk_pages_read_total counter") != std::string::npos);
}

TEST_CASE("metrics and load answer while the model loads", "[server][metrics]") {
  ServerSetup setup;
  setup.ready = false;
  ServerFixture fixture(setup);
  Client client(fixture);
  CHECK(client.get("/metrics").status == 200);
  CHECK(client.get("/load").json().at("server_load").as_int64() == 0);
}

}  // namespace
}  // namespace tandem::tests
