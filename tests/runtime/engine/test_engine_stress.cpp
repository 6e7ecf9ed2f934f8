// Many threads at once; meant for the thread sanitizer as much as for its checks.
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <random>
#include <thread>

#include "runtime/engine/engine.h"
#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

using namespace std::chrono_literals;

struct Outcome {
  std::shared_ptr<CollectingSink> sink;
  std::vector<int32_t> prompt;
  bool may_be_aborted = false;
};

// One client: submits, aborts some, reads stats.
std::vector<Outcome> run_client(Engine& engine, uint32_t seed, int num_requests) {
  std::mt19937 rng(seed);
  std::vector<Outcome> outcomes;
  for (int request_idx = 0; request_idx < num_requests; ++request_idx) {
    Outcome outcome;
    outcome.prompt =
        make_prompt(static_cast<uint32_t>(rng() % 5), static_cast<int32_t>(1 + rng() % 200), 512);
    outcome.may_be_aborted = rng() % 3 == 0;
    const bool refuses = rng() % 7 == 0;
    outcome.may_be_aborted |= refuses;
    outcome.sink = std::make_shared<CollectingSink>(
        [refuses](size_t num_tokens) { return !refuses || num_tokens < 5; });
    const auto request_id = engine.submit(
        greedy_request(outcome.prompt, static_cast<int32_t>(1 + rng() % 80), outcome.sink));
    if (!request_id.ok()) continue;
    if (outcome.may_be_aborted) {
      if (rng() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(rng() % 2000));
      engine.abort(*request_id);
    }
    static_cast<void>(engine.stats());
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

TEST_CASE("clients in several threads all get their own answers", "[engine]") {
  HashModel model({.num_kv_pages = 12});
  Engine engine(model, {.max_sequences = 8, .max_queued_requests = 1000});
  constexpr uint32_t kNumClients = 4;
  std::vector<std::vector<Outcome>> outcomes(kNumClients);
  std::vector<std::thread> clients;
  for (uint32_t client_idx = 0; client_idx < kNumClients; ++client_idx) {
    clients.emplace_back(
        [&, client_idx] { outcomes[client_idx] = run_client(engine, client_idx, 40); });
  }
  for (std::thread& client : clients) client.join();
  CHECK(engine.drain(60s));
  int64_t num_outcomes = 0;
  for (const std::vector<Outcome>& of_client : outcomes) {
    for (const Outcome& outcome : of_client) {
      ++num_outcomes;
      REQUIRE(outcome.sink->num_finished() == 1);
      CHECK_FALSE(outcome.sink->has_token_after_end());
      const TokenEvent last = outcome.sink->wait();
      const std::vector<int32_t> token_ids = outcome.sink->token_ids();
      CHECK(token_ids ==
            model.expected_greedy(outcome.prompt, static_cast<int32_t>(token_ids.size())));
      if (!outcome.may_be_aborted) CHECK(last.finish_reason == FinishReason::kLength);
    }
  }
  const EngineStats stats = engine.stats();
  CHECK(stats.num_finished + stats.num_aborted == num_outcomes);
  CHECK(num_outcomes == 160);
  CHECK(stats.kv_pages_used == 0);
  CHECK(model.violations() == std::vector<std::string>{});
}

TEST_CASE("a failure amid submissions ends every accepted request once", "[engine]") {
  for (int64_t fail_at_step = 0; fail_at_step < 20; ++fail_at_step) {
    HashModel model({.fail_at_step = fail_at_step});
    Engine engine(model, {.max_queued_requests = 1000});
    std::vector<std::vector<Outcome>> outcomes(2);
    std::vector<std::thread> clients;
    for (uint32_t client_idx = 0; client_idx < 2; ++client_idx) {
      clients.emplace_back(
          [&, client_idx] { outcomes[client_idx] = run_client(engine, client_idx, 20); });
    }
    for (std::thread& client : clients) client.join();
    engine.drain(60s);
    for (const std::vector<Outcome>& of_client : outcomes) {
      for (const Outcome& outcome : of_client) REQUIRE(outcome.sink->num_finished() == 1);
    }
  }
}

TEST_CASE("an engine destroyed amid its work leaves nobody waiting", "[engine]") {
  HashModel model({.step_delay = 100us});
  for (uint32_t time_idx = 0; time_idx < 20; ++time_idx) {
    std::vector<Outcome> outcomes;
    {
      Engine engine(model, {});
      outcomes = run_client(engine, time_idx, 8);
      std::this_thread::sleep_for(std::chrono::microseconds(200 * time_idx));
    }
    for (const Outcome& outcome : outcomes) REQUIRE(outcome.sink->num_finished() == 1);
  }
}

}  // namespace
}  // namespace tandem::tests
