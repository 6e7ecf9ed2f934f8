// Every request ends exactly once: aborts, refusing sinks, failures, draining, shutting down.
#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>

#include "runtime/engine/engine.h"
#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

using namespace std::chrono_literals;

TEST_CASE("an abort at any step ends that request only", "[engine]") {
  // Steps 0-2 prefill (chunks of 50), then decodes; step 14 would be the last.
  for (int64_t step_idx = 0; step_idx < 15; ++step_idx) {
    INFO("step " << step_idx);
    HashModel model;
    Engine engine(model, {.prefill_chunk_tokens = 50});
    const std::vector<int32_t> prompt = make_prompt(1, 120, 512);
    const auto aborted = std::make_shared<CollectingSink>();
    const auto other = std::make_shared<CollectingSink>();
    model.hold_at_step(step_idx);
    const auto request_id = engine.submit(greedy_request(prompt, 20, aborted));
    REQUIRE(request_id.ok());
    REQUIRE(engine.submit(greedy_request(make_prompt(2, 30, 512), 20, other)).ok());
    model.wait_until_held();
    engine.abort(*request_id);
    engine.abort(*request_id);  // twice changes nothing
    engine.abort(123456);       // nor does an unknown one
    model.resume();
    const TokenEvent last = aborted->wait();
    CHECK(last.finish_reason == FinishReason::kAborted);
    CHECK(last.error.empty());  // somebody asked for it
    CHECK(last.prompt_tokens == 120);
    CHECK(last.completion_tokens == static_cast<int32_t>(aborted->num_tokens()));
    // The step that was being computed may still deliver its token.
    CHECK(aborted->num_tokens() == static_cast<size_t>(std::max<int64_t>(step_idx - 1, 0)));
    const std::vector<int32_t> expected = model.expected_greedy(prompt, last.completion_tokens);
    CHECK(aborted->token_ids() == expected);
    CHECK(other->wait().finish_reason == FinishReason::kLength);
    CHECK(other->token_ids() == model.expected_greedy(make_prompt(2, 30, 512), 20));
    CHECK(engine.drain(10s));
    CHECK(aborted->num_finished() == 1);
    CHECK_FALSE(aborted->has_token_after_end());
    CHECK(engine.stats().kv_pages_used == 0);
    CHECK(engine.stats().num_aborted == 1);
    CHECK(engine.stats().num_finished == 1);
    CHECK(model.violations().empty());
  }
}

TEST_CASE("a request that waits for pages can be aborted", "[engine]") {
  HashModel model({.num_kv_pages = 3});
  Engine engine(model, {});
  const auto running = std::make_shared<CollectingSink>();
  const auto waiting = std::make_shared<CollectingSink>();
  model.hold_at_step(2);
  REQUIRE(engine.submit(greedy_request(make_prompt(1, 130, 512), 20, running)).ok());
  const auto request_id = engine.submit(greedy_request(make_prompt(2, 130, 512), 20, waiting));
  model.wait_until_held();
  CHECK(engine.stats().num_running == 1);
  CHECK(engine.stats().num_waiting == 1);
  engine.abort(*request_id);
  model.resume();
  const TokenEvent last = waiting->wait();
  CHECK(last.finish_reason == FinishReason::kAborted);
  CHECK(last.completion_tokens == 0);
  CHECK(last.cached_tokens == 0);
  CHECK(running->wait().finish_reason == FinishReason::kLength);
}

TEST_CASE("a sink that refuses a token ends its own request only", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  for (const size_t num_taken : {0u, 1u, 7u}) {
    const auto slow = std::make_shared<CollectingSink>(
        [num_taken](size_t num_tokens) { return num_tokens < num_taken; });
    const auto other = std::make_shared<CollectingSink>();
    REQUIRE(engine.submit(greedy_request(make_prompt(3, 10, 512), 30, slow)).ok());
    REQUIRE(engine.submit(greedy_request(make_prompt(4, 10, 512), 30, other)).ok());
    const TokenEvent last = slow->wait();
    CHECK(last.finish_reason == FinishReason::kAborted);
    CHECK(last.completion_tokens == static_cast<int32_t>(num_taken) + 1);
    CHECK(slow->num_tokens() == num_taken);
    CHECK(other->wait().finish_reason == FinishReason::kLength);
    CHECK(slow->num_finished() == 1);
  }
}

TEST_CASE("a sink may call the engine", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const auto second = std::make_shared<CollectingSink>();
  std::atomic<Engine::RequestId> first_id{0};
  const auto first = std::make_shared<CollectingSink>([&](size_t num_tokens) {
    if (num_tokens == 3) {
      static_cast<void>(engine.submit(greedy_request({1, 2, 3}, 5, second)));
      engine.abort(first_id);
      static_cast<void>(engine.stats());
    }
    return true;
  });
  model.pause();
  first_id = *engine.submit(greedy_request({4, 5, 6}, 400, first));
  model.resume();
  CHECK(first->wait().finish_reason == FinishReason::kAborted);
  CHECK(first->num_tokens() == 4);
  CHECK(second->wait().finish_reason == FinishReason::kLength);
}

TEST_CASE("when the model fails everybody is told, then nobody is served", "[engine]") {
  for (const int64_t fail_at_step : {0, 1, 5}) {
    HashModel model({.num_kv_pages = 8, .fail_at_step = fail_at_step});
    Engine engine(model, {.max_sequences = 2});
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    model.pause();
    for (uint32_t request_idx = 0; request_idx < 5; ++request_idx) {
      sinks.push_back(std::make_shared<CollectingSink>());
      REQUIRE(
          engine.submit(greedy_request(make_prompt(request_idx, 20, 512), 30, sinks.back())).ok());
    }
    model.resume();
    for (const auto& sink : sinks) {
      const TokenEvent last = sink->wait();
      CHECK(last.finish_reason == FinishReason::kError);
      CHECK(last.error == "the engine failed: the fake device failed");
      CHECK(sink->num_finished() == 1);
    }
    const auto refused = engine.submit(greedy_request({1}, 1, sinks[0]));
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().kind == SubmitError::Kind::kFailed);
    CHECK(refused.error().message == "the engine failed: the fake device failed");
    const EngineStats stats = engine.stats();
    CHECK(stats.failed);
    CHECK(stats.num_running == 0);
    CHECK(stats.num_waiting == 0);
    CHECK(stats.kv_pages_used == 0);
    engine.abort(1);
    CHECK(engine.drain(20s));
  }
}

TEST_CASE("draining lets answers finish and refuses new requests", "[engine]") {
  HashModel model({.step_delay = 500us});
  Engine engine(model, {.max_sequences = 2});
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (uint32_t request_idx = 0; request_idx < 4; ++request_idx) {
    sinks.push_back(std::make_shared<CollectingSink>());
    REQUIRE(
        engine.submit(greedy_request(make_prompt(request_idx, 20, 512), 20, sinks.back())).ok());
  }
  CHECK_FALSE(engine.stats().draining);
  CHECK(engine.drain(20s));
  for (const auto& sink : sinks) {
    REQUIRE(sink->num_finished() == 1);
    CHECK(sink->wait().finish_reason == FinishReason::kLength);
  }
  CHECK(engine.stats().draining);
  const auto refused = engine.submit(greedy_request({1}, 1, sinks[0]));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().kind == SubmitError::Kind::kDraining);
  CHECK(engine.drain(0ms));
}

TEST_CASE("what does not finish while draining is aborted", "[engine]") {
  HashModel model({.step_delay = 2ms});
  Engine engine(model, {.max_sequences = 1});
  const auto running = std::make_shared<CollectingSink>();
  const auto waiting = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request({1, 2}, 4000, running)).ok());
  REQUIRE(engine.submit(greedy_request({3, 4}, 4000, waiting)).ok());
  REQUIRE(running->wait_for_tokens(3));
  CHECK_FALSE(engine.drain(10ms));
  for (const auto& sink : {running, waiting}) {
    REQUIRE(sink->num_finished() == 1);
    CHECK(sink->wait().finish_reason == FinishReason::kAborted);
    CHECK(sink->wait().error == "the server is shutting down");
  }
  CHECK(engine.stats().num_aborted == 2);
}

TEST_CASE("the queue is bounded by what is not running yet", "[engine]") {
  HashModel model;
  Engine engine(model, {.max_sequences = 2, .max_queued_requests = 3});
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  const auto submit = [&] {
    sinks.push_back(std::make_shared<CollectingSink>());
    const auto prompt = make_prompt(static_cast<uint32_t>(sinks.size()), 20, 512);
    auto result = engine.submit(greedy_request(prompt, 10, sinks.back()));
    if (!result.ok()) sinks.pop_back();
    return result;
  };
  model.hold_at_step(0);
  REQUIRE(submit().ok());
  model.wait_until_held();
  REQUIRE(submit().ok());
  model.hold_at_step(2);
  model.wait_until_held();  // the second was admitted to step 1, which is over
  for (int request_idx = 0; request_idx < 3; ++request_idx) REQUIRE(submit().ok());
  const auto refused = submit();
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().kind == SubmitError::Kind::kQueueFull);
  CHECK(refused.error().message == "the queue is full (3 requests are waiting), try again later");
  CHECK(engine.stats().num_waiting == 3);
  model.resume();
  for (size_t sink_idx = 0; sink_idx < 5; ++sink_idx)
    CHECK(sinks[sink_idx]->wait().finish_reason == FinishReason::kLength);
  REQUIRE(submit().ok());
  CHECK(sinks.back()->wait().finish_reason == FinishReason::kLength);
}

TEST_CASE("a queue of aborted requests has room again", "[engine]") {
  HashModel model({.num_kv_pages = 2});
  Engine engine(model, {.max_queued_requests = 1});
  const auto running = std::make_shared<CollectingSink>();
  model.hold_at_step(1);
  REQUIRE(engine.submit(greedy_request(make_prompt(1, 100, 512), 20, running)).ok());
  model.wait_until_held();
  for (int time_idx = 0; time_idx < 5; ++time_idx) {
    const auto waiting = std::make_shared<CollectingSink>();
    const auto request_id = engine.submit(greedy_request(make_prompt(2, 100, 512), 20, waiting));
    REQUIRE(request_id.ok());
    CHECK_FALSE(engine.submit(greedy_request({1}, 1, waiting)).ok());
    engine.abort(*request_id);
    model.hold_at_step(model.num_steps() + 1);  // lets the held step go, holds the next
    CHECK(waiting->wait().finish_reason == FinishReason::kAborted);
  }
  model.resume();
  CHECK(running->wait().finish_reason == FinishReason::kLength);
}

TEST_CASE("destroying the engine ends what runs and what waits", "[engine]") {
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  HashModel model({.step_delay = 1ms});
  {
    Engine engine(model, {.max_sequences = 2});
    for (uint32_t request_idx = 0; request_idx < 6; ++request_idx) {
      sinks.push_back(std::make_shared<CollectingSink>());
      REQUIRE(engine.submit(greedy_request(make_prompt(request_idx, 20, 512), 3000, sinks.back()))
                  .ok());
    }
    REQUIRE(sinks[0]->wait_for_tokens(2));
  }
  for (const auto& sink : sinks) {
    REQUIRE(sink->num_finished() == 1);
    CHECK(sink->wait().finish_reason == FinishReason::kAborted);
    CHECK_FALSE(sink->has_token_after_end());
  }
  CHECK(sinks[0].use_count() == 1);  // the engine let go of it
}

TEST_CASE("an engine that never got a request ends at once", "[engine]") {
  HashModel model;
  const Engine engine(model, {});
  CHECK(engine.stats().num_steps == 0);
  CHECK(&engine.model() == &model);
}

TEST_CASE("who has seen a request end finds it counted", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  for (int64_t request_idx = 1; request_idx <= 50; ++request_idx) {
    const auto sink = std::make_shared<CollectingSink>();
    REQUIRE(engine.submit(greedy_request({1, 2, 3}, 3, sink)).ok());
    sink->wait();
    const EngineStats stats = engine.stats();
    CHECK(stats.num_finished == request_idx);
    CHECK(stats.generated_tokens == 3 * request_idx);
    CHECK(stats.num_running == 0);
    CHECK(stats.num_waiting == 0);
    CHECK(stats.kv_pages_used == 0);
  }
}

TEST_CASE("a pattern that stands often enough in a row is a repetition", "[engine]") {
  const auto repeats = [](const std::vector<int32_t>& ids, const RepetitionLimit& limit) {
    return ends_in_repetition(ids, limit);
  };
  CHECK_FALSE(repeats({1, 1, 1, 1}, {}));  // no limit
  const RepetitionLimit thrice{.max_pattern_tokens = 3, .min_count = 3};
  CHECK(repeats({9, 1, 1, 1}, thrice));
  CHECK_FALSE(repeats({1, 1, 1, 9}, thrice));
  CHECK_FALSE(repeats({1, 1}, thrice));
  CHECK(repeats({7, 1, 2, 1, 2, 1, 2}, thrice));
  CHECK_FALSE(repeats({7, 1, 2, 3, 2, 1, 2}, thrice));
  CHECK(repeats({1, 2, 3, 1, 2, 3, 1, 2, 3}, thrice));
  CHECK_FALSE(repeats({1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}, thrice));  // four tokens
  const RepetitionLimit pairs{.min_pattern_tokens = 2, .max_pattern_tokens = 2, .min_count = 2};
  CHECK(repeats({1, 1, 1, 1}, pairs));
  CHECK_FALSE(repeats({2, 1, 1, 1}, pairs));
}

TEST_CASE("an answer that repeats itself ends, its prompt does not count", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const auto sink = std::make_shared<CollectingSink>();
  GenerationRequest request = greedy_request({5, 5, 5, 5, 5, 5}, 50, sink);
  // Every token draws the same one.
  request.sampling.logit_bias = {{5, 1e6f}};
  request.repetition = {.max_pattern_tokens = 1, .min_count = 4};
  REQUIRE(engine.submit(std::move(request)).ok());
  const TokenEvent last = sink->wait();
  CHECK(last.finish_reason == FinishReason::kRepetition);
  CHECK(sink->token_ids() == std::vector<int32_t>{5, 5, 5, 5});
  GenerationRequest bad = greedy_request({1}, 1, sink);
  bad.repetition.min_count = 1;
  const auto refused = engine.submit(std::move(bad));
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().kind == SubmitError::Kind::kInvalid);
}

}  // namespace
}  // namespace tandem::tests
