// An engine that sleeps and wakes: what becomes of requests, of the model's memory, and of orders
// that cross.
#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "runtime/engine/engine.h"
#include "tests/runtime/engine/engine_fixture.h"
#include "tests/support/captured_log.h"

namespace tandem::tests {
namespace {

using namespace std::chrono_literals;
using Kind = SleepOutcome::Kind;

constexpr ModelMemory kWeights{.weights = true};
constexpr ModelMemory kKvCache{.kv_cache = true};
constexpr ModelMemory kOnDevices{.weights = true, .kv_cache = true};
constexpr ModelMemory kAll{.weights = true, .host_weights = true, .kv_cache = true};

// An order's outcome, when it comes.
class Outcome {
 public:
  [[nodiscard]] SleepDone done() {
    return [promise = promise_](const SleepOutcome& outcome) { promise->set_value(outcome); };
  }
  [[nodiscard]] SleepOutcome wait() {
    if (future_.wait_for(120s) == std::future_status::ready) return future_.get();
    return {Kind::kEnded, "timed out"};
  }
  [[nodiscard]] bool is_there() { return future_.wait_for(0s) == std::future_status::ready; }

 private:
  std::shared_ptr<std::promise<SleepOutcome>> promise_ =
      std::make_shared<std::promise<SleepOutcome>>();
  std::future<SleepOutcome> future_ = promise_->get_future();
};

SleepOutcome sleep_now(Engine& engine,
                       const ModelMemory& memory = kOnDevices,
                       SleepMode mode = SleepMode::kAbort) {
  Outcome outcome;
  engine.sleep(memory, mode, outcome.done());
  return outcome.wait();
}
SleepOutcome wake_now(Engine& engine, const ModelMemory& memory = kAll) {
  Outcome outcome;
  engine.wake_up(memory, outcome.done());
  return outcome.wait();
}

std::shared_ptr<CollectingSink> submit(Engine& engine,
                                       const std::vector<int32_t>& prompt,
                                       int32_t num_tokens) {
  const auto sink = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request(prompt, num_tokens, sink)).ok());
  return sink;
}

// A request that has some tokens and wants many more, its engine held in a step.
std::shared_ptr<CollectingSink> submit_and_hold(Engine& engine, HashModel& model) {
  model.hold_at_step(model.num_steps() + 4);
  const auto sink = submit(engine, make_prompt(1, 30, 512), 2000);
  model.wait_until_held();
  return sink;
}

// The engine is held in a step until the order is given.
SleepOutcome sleep_now_and_resume(Engine& engine, HashModel& model, SleepMode mode) {
  Outcome outcome;
  engine.sleep(kOnDevices, mode, outcome.done());
  model.resume();
  return outcome.wait();
}

std::optional<SubmitError> refusal(Engine& engine) {
  const auto submitted =
      engine.submit(greedy_request({1, 2}, 1, std::make_shared<CollectingSink>()));
  if (submitted.ok()) return std::nullopt;
  return submitted.error();
}

TEST_CASE("behind a sleep the tokens are those of before, and no page is known", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(1, 200, 512);
  CHECK(submit(engine, prompt, 20)->wait().cached_tokens == 0);
  CHECK(submit(engine, prompt, 20)->wait().cached_tokens > 0);
  for (const ModelMemory& memory : {kOnDevices, kAll, kKvCache}) {
    CHECK(sleep_now(engine, memory).kind == Kind::kDone);
    CHECK(model.released() == memory);
    CHECK(engine.stats().sleep_state == SleepState::kAsleep);
    CHECK(engine.stats().released == memory);
    CHECK(engine.stats().kv_pages_used == 0);
    CHECK(wake_now(engine).kind == Kind::kDone);
    CHECK(!model.released().any());
    CHECK(engine.stats().sleep_state == SleepState::kAwake);
    const auto sink = submit(engine, prompt, 20);
    CHECK(sink->wait().cached_tokens == 0);
    CHECK(sink->token_ids() == model.expected_greedy(prompt, 20));
  }
  // Pages that stay where they are are found again.
  CHECK(sleep_now(engine, kWeights).kind == Kind::kDone);
  CHECK(wake_now(engine).kind == Kind::kDone);
  CHECK(submit(engine, prompt, 20)->wait().cached_tokens > 0);
  CHECK(model.violations().empty());
}

// Steps 0 to 2 prefill, then decodes; the second request waits for a place.
TEST_CASE("a sleep that aborts ends what runs and what waits, at any step", "[engine]") {
  for (int64_t step_idx = 0; step_idx < 8; ++step_idx) {
    INFO("step " << step_idx);
    HashModel model;
    Engine engine(model, {.max_sequences = 1, .prefill_chunk_tokens = 50});
    model.hold_at_step(step_idx);
    const std::vector<int32_t> prompt = make_prompt(1, 120, 512);
    const auto running = submit(engine, prompt, 200);
    const auto waiting = submit(engine, make_prompt(2, 30, 512), 200);
    model.wait_until_held();
    Outcome outcome;
    engine.sleep(kOnDevices, SleepMode::kAbort, outcome.done());
    const auto refused = refusal(engine);
    REQUIRE(refused);
    CHECK(refused->kind == SubmitError::Kind::kSleeping);
    CHECK(refused->message == "the model is going to sleep");
    CHECK(engine.stats().sleep_state == SleepState::kFallingAsleep);
    CHECK_FALSE(outcome.is_there());
    CHECK(!model.released().any());
    model.resume();
    CHECK(outcome.wait().kind == Kind::kDone);
    CHECK(model.released() == kOnDevices);
    for (const auto& sink : {running, waiting}) {
      CHECK(sink->num_finished() == 1);  // before the memory goes
      CHECK(sink->wait().finish_reason == FinishReason::kAborted);
      CHECK(sink->wait().error.empty());  // somebody asked for it
    }
    CHECK(running->token_ids() ==
          model.expected_greedy(prompt, static_cast<int32_t>(running->num_tokens())));
    CHECK(waiting->num_tokens() == 0);
    CHECK(refusal(engine)->message == "the model is asleep");
    CHECK(engine.sleep_refusal()->kind == SubmitError::Kind::kSleeping);
    CHECK(wake_now(engine).kind == Kind::kDone);
    CHECK_FALSE(engine.sleep_refusal());
    CHECK(submit(engine, prompt, 5)->wait().finish_reason == FinishReason::kLength);
    CHECK(model.violations().empty());
  }
}

TEST_CASE("a sleep that waits comes behind the answers that run and wait", "[engine]") {
  HashModel model;
  Engine engine(model, {.max_sequences = 1});
  model.hold_at_step(3);
  const auto running = submit(engine, make_prompt(1, 30, 512), 20);
  const auto waiting = submit(engine, make_prompt(2, 30, 512), 20);
  model.wait_until_held();
  Outcome outcome;
  engine.sleep(kOnDevices, SleepMode::kWait, outcome.done());
  CHECK(refusal(engine)->kind == SubmitError::Kind::kSleeping);
  model.resume();
  CHECK(outcome.wait().kind == Kind::kDone);
  CHECK(running->num_finished() == 1);
  CHECK(waiting->num_finished() == 1);
  CHECK(running->token_ids() == model.expected_greedy(make_prompt(1, 30, 512), 20));
  CHECK(waiting->token_ids() == model.expected_greedy(make_prompt(2, 30, 512), 20));
  CHECK(wake_now(engine).kind == Kind::kDone);
  CHECK(model.violations().empty());
}

TEST_CASE("answers that are kept through a sleep go on behind it as if nothing was", "[engine]") {
  const ModelMemory memory = GENERATE(kOnDevices, kWeights, kKvCache);
  for (int64_t step_idx = 0; step_idx < 8; ++step_idx) {
    INFO("step " << step_idx);
    HashModel model;
    Engine engine(model, {.max_sequences = 2, .prefill_chunk_tokens = 50});
    model.hold_at_step(step_idx);
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (uint32_t idx = 0; idx < 3; ++idx)
      sinks.push_back(submit(engine, make_prompt(idx, 120, 512), 20));
    model.wait_until_held();
    Outcome outcome;
    engine.sleep(memory, SleepMode::kKeep, outcome.done());
    model.resume();
    CHECK(outcome.wait().kind == Kind::kDone);
    const int64_t num_steps = model.num_steps();
    CHECK(refusal(engine)->kind == SubmitError::Kind::kSleeping);
    for (const auto& sink : sinks) CHECK(sink->num_finished() == 0);
    CHECK(engine.stats().num_running + engine.stats().num_waiting == 3);
    CHECK(model.num_steps() == num_steps);
    CHECK(wake_now(engine).kind == Kind::kDone);
    for (uint32_t idx = 0; idx < 3; ++idx) {
      CHECK(sinks[idx]->wait().finish_reason == FinishReason::kLength);
      CHECK(sinks[idx]->token_ids() == model.expected_greedy(make_prompt(idx, 120, 512), 20));
    }
    CHECK(model.violations().empty());
  }
}

TEST_CASE("a kept answer can be aborted while the model sleeps", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  model.hold_at_step(2);
  const auto sink = std::make_shared<CollectingSink>();
  const auto request_id = engine.submit(greedy_request(make_prompt(1, 30, 512), 50, sink));
  const auto other = submit(engine, make_prompt(2, 30, 512), 50);
  model.wait_until_held();
  Outcome outcome;
  engine.sleep(kOnDevices, SleepMode::kKeep, outcome.done());
  model.resume();
  CHECK(outcome.wait().kind == Kind::kDone);
  engine.abort(*request_id);
  CHECK(sink->wait().finish_reason == FinishReason::kAborted);
  // A second sleep need not be as patient.
  CHECK(sleep_now(engine, kOnDevices, SleepMode::kAbort).kind == Kind::kDone);
  CHECK(other->wait().finish_reason == FinishReason::kAborted);
  CHECK(wake_now(engine).kind == Kind::kDone);
  CHECK(engine.stats().kv_pages_used == 0);
}

TEST_CASE("an abort while the engine falls asleep ends that request, and the sleep comes",
          "[engine]") {
  HashModel model;
  Engine engine(model, {});
  model.hold_at_step(2);
  const auto sink = std::make_shared<CollectingSink>();
  const auto request_id = engine.submit(greedy_request(make_prompt(1, 30, 512), 4000, sink));
  model.wait_until_held();
  Outcome outcome;
  engine.sleep(kOnDevices, SleepMode::kWait, outcome.done());
  engine.abort(*request_id);
  model.resume();
  CHECK(sink->wait().finish_reason == FinishReason::kAborted);
  CHECK(outcome.wait().kind == Kind::kDone);
}

TEST_CASE("a second sleep joins the first, its mode and its memory", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const auto sink = submit_and_hold(engine, model);
  Outcome first;
  Outcome second;
  engine.sleep(kKvCache, SleepMode::kWait, first.done());
  engine.sleep(kWeights, SleepMode::kAbort, second.done());
  CHECK_FALSE(first.is_there());
  model.resume();
  CHECK(first.wait().kind == Kind::kDone);
  CHECK(second.wait().kind == Kind::kDone);
  CHECK(sink->wait().finish_reason == FinishReason::kAborted);
  CHECK(model.released() == kOnDevices);
  CHECK(sleep_now(engine).kind == Kind::kDone);  // asleep already
  CHECK(model.released() == kOnDevices);
  CHECK(wake_now(engine).kind == Kind::kDone);
  CHECK(wake_now(engine).kind == Kind::kDone);  // awake already
  CHECK(model.num_restores() == 1);
  CHECK(model.violations().empty());
}

TEST_CASE("woken before it sleeps an engine goes on, and who sent it to sleep is told",
          "[engine]") {
  HashModel model;
  Engine engine(model, {});
  model.hold_at_step(3);
  const auto running = submit(engine, make_prompt(1, 30, 512), 20);
  model.wait_until_held();
  Outcome sleeper;
  Outcome waker;
  engine.sleep(kOnDevices, SleepMode::kWait, sleeper.done());
  engine.wake_up(kAll, waker.done());
  CHECK(waker.wait().kind == Kind::kDone);
  const SleepOutcome outcome = sleeper.wait();
  CHECK(outcome.kind == Kind::kCalledOff);
  CHECK(outcome.message == "the model was woken before it slept");
  const auto next = submit(engine, make_prompt(2, 30, 512), 20);
  model.resume();
  CHECK(running->wait().finish_reason == FinishReason::kLength);
  CHECK(next->wait().finish_reason == FinishReason::kLength);
  CHECK(!model.released().any());
  CHECK(model.num_restores() == 0);
}

TEST_CASE("a sleep that is told while the model wakes comes behind it", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  CHECK(sleep_now(engine).kind == Kind::kDone);
  model.hold_restores();
  Outcome waker;
  engine.wake_up(kAll, waker.done());
  model.wait_until_restoring();
  CHECK(engine.stats().sleep_state == SleepState::kWaking);
  CHECK(refusal(engine)->message == "the model is waking up");
  Outcome sleeper;
  engine.sleep(kOnDevices, SleepMode::kAbort, sleeper.done());
  model.let_restores_go();
  CHECK(waker.wait().kind == Kind::kDone);
  CHECK(sleeper.wait().kind == Kind::kDone);
  CHECK(engine.stats().sleep_state == SleepState::kAsleep);
  CHECK(wake_now(engine).kind == Kind::kDone);
  CHECK(submit(engine, {1, 2, 3}, 3)->wait().finish_reason == FinishReason::kLength);
  CHECK(model.violations().empty());
}

TEST_CASE("memory goes and comes in parts, and requests are taken with the last", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  CHECK(sleep_now(engine, kKvCache).kind == Kind::kDone);
  CHECK(sleep_now(engine, kWeights).kind == Kind::kDone);
  CHECK(model.released() == kOnDevices);
  CHECK(wake_now(engine, kWeights).kind == Kind::kDone);
  CHECK(wake_now(engine, kWeights).kind == Kind::kDone);  // there already
  CHECK(model.released() == kKvCache);
  CHECK(engine.stats().sleep_state == SleepState::kAsleep);
  CHECK(refusal(engine)->kind == SubmitError::Kind::kSleeping);
  CHECK(wake_now(engine, kKvCache).kind == Kind::kDone);
  CHECK(engine.stats().sleep_state == SleepState::kAwake);
  CHECK(submit(engine, {1, 2, 3}, 3)->wait().finish_reason == FinishReason::kLength);
  // Weights in host memory come with the others.
  CHECK(sleep_now(engine, kAll).kind == Kind::kDone);
  CHECK(wake_now(engine, kWeights).kind == Kind::kDone);
  CHECK(model.released() == kKvCache);
  CHECK(wake_now(engine, kKvCache).kind == Kind::kDone);
  CHECK(model.violations().empty());
}

TEST_CASE("an engine that cannot wake says why, sleeps on, and wakes when it is told again",
          "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const auto kept = submit_and_hold(engine, model);
  CHECK(sleep_now_and_resume(engine, model, SleepMode::kKeep).kind == Kind::kDone);
  model.fail_restores(2);
  for (int idx = 0; idx < 2; ++idx) {
    const SleepOutcome outcome = wake_now(engine);
    CHECK(outcome.kind == Kind::kNotWoken);
    CHECK(outcome.message == "the fake device is full\nmemory map");
    CHECK(engine.stats().sleep_state == SleepState::kAsleep);
    CHECK_FALSE(engine.stats().failed);
    CHECK(refusal(engine)->kind == SubmitError::Kind::kSleeping);
  }
  CHECK(wake_now(engine).kind == Kind::kDone);
  CHECK(kept->wait().finish_reason == FinishReason::kLength);
  CHECK(kept->token_ids() == model.expected_greedy(make_prompt(1, 30, 512), 2000));
  CHECK(model.violations().empty());
}

TEST_CASE("an answer of several requests is waited for, and takes them while others are refused",
          "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const auto first = std::make_shared<CollectingSink>();
  const auto second = std::make_shared<CollectingSink>();
  auto answer = std::make_unique<Engine::Answer>(engine);
  REQUIRE(answer->submit(greedy_request(make_prompt(1, 30, 512), 5, first)).ok());
  CHECK(first->wait().finish_reason == FinishReason::kLength);
  Outcome outcome;
  engine.sleep(kOnDevices, SleepMode::kWait, outcome.done());
  {
    Engine::Answer late(engine);
    const auto refused = late.submit(greedy_request({1}, 1, std::make_shared<CollectingSink>()));
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().kind == SubmitError::Kind::kSleeping);
  }
  REQUIRE(answer->submit(greedy_request(make_prompt(2, 30, 512), 5, second)).ok());
  CHECK(second->wait().finish_reason == FinishReason::kLength);
  CHECK_FALSE(outcome.is_there());
  answer.reset();
  CHECK(outcome.wait().kind == Kind::kDone);

  // Kept through a sleep, its next request is as well.
  CHECK(wake_now(engine).kind == Kind::kDone);
  Engine::Answer kept(engine);
  CHECK(sleep_now(engine, kOnDevices, SleepMode::kKeep).kind == Kind::kDone);
  const auto third = std::make_shared<CollectingSink>();
  REQUIRE(kept.submit(greedy_request(make_prompt(3, 30, 512), 5, third)).ok());
  CHECK(third->num_finished() == 0);
  CHECK(wake_now(engine).kind == Kind::kDone);
  CHECK(third->wait().finish_reason == FinishReason::kLength);
  // An abort ends it.
  CHECK(sleep_now(engine, kOnDevices, SleepMode::kAbort).kind == Kind::kDone);
  CHECK_FALSE(kept.submit(greedy_request({1}, 1, third)).ok());
  CHECK(model.violations().empty());
}

TEST_CASE("where requests wake the engine, those that come are answered behind one waking",
          "[engine]") {
  HashModel model;
  Engine engine(model, {.wake_on_request = true});
  CHECK(sleep_now(engine).kind == Kind::kDone);
  CHECK_FALSE(engine.sleep_refusal());
  model.hold_restores();
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (uint32_t idx = 0; idx < 3; ++idx) {
    sinks.push_back(submit(engine, make_prompt(idx, 30, 512), 5));
    model.wait_until_restoring();
  }
  model.let_restores_go();
  for (const auto& sink : sinks) CHECK(sink->wait().finish_reason == FinishReason::kLength);
  CHECK(model.num_restores() == 1);

  // A request calls a sleep off that waits for others.
  model.hold_at_step(model.num_steps());
  const auto running = submit(engine, make_prompt(4, 30, 512), 5);
  model.wait_until_held();
  Outcome outcome;
  engine.sleep(kOnDevices, SleepMode::kWait, outcome.done());
  const auto late = submit(engine, make_prompt(5, 30, 512), 5);
  CHECK(outcome.wait().kind == Kind::kCalledOff);
  model.resume();
  CHECK(late->wait().finish_reason == FinishReason::kLength);

  // When it cannot be woken, they are told.
  CHECK(sleep_now(engine).kind == Kind::kDone);
  model.fail_restores(1);
  const TokenEvent last = submit(engine, make_prompt(6, 30, 512), 5)->wait();
  CHECK(last.finish_reason == FinishReason::kAborted);
  CHECK(last.error == "the model could not be woken: the fake device is full\nmemory map");
  CHECK(engine.stats().sleep_state == SleepState::kAsleep);
  CHECK(submit(engine, make_prompt(7, 30, 512), 5)->wait().finish_reason == FinishReason::kLength);
  CHECK(model.violations().empty());
}

TEST_CASE("a request that comes while a part is woken wakes the rest", "[engine]") {
  HashModel model;
  Engine engine(model, {.wake_on_request = true});
  CHECK(sleep_now(engine).kind == Kind::kDone);
  model.fail_restores(GENERATE(0, 1));  // of the part
  model.hold_restores();
  engine.wake_up(kWeights, {});
  model.wait_until_restoring();
  const auto sink = submit(engine, make_prompt(1, 30, 512), 5);
  model.let_restores_go();
  CHECK(sink->wait().finish_reason == FinishReason::kLength);
  // And where it is to sleep again behind the waking.
  CHECK(sleep_now(engine).kind == Kind::kDone);
  model.hold_restores();
  engine.wake_up(kAll, {});
  model.wait_until_restoring();
  Outcome called_off;
  engine.sleep(kOnDevices, SleepMode::kKeep, called_off.done());
  const auto late = submit(engine, make_prompt(2, 30, 512), 5);
  model.let_restores_go();
  CHECK(called_off.wait().kind == Kind::kCalledOff);
  CHECK(late->wait().finish_reason == FinishReason::kLength);
}

TEST_CASE("who waited for a place before a sleep outlives a waking that fails", "[engine]") {
  HashModel model;
  Engine engine(model, {.max_sequences = 1, .wake_on_request = GENERATE(false, true)});
  model.hold_at_step(4);
  const std::vector sinks = {submit(engine, make_prompt(1, 30, 512), 100),
                             submit(engine, make_prompt(2, 30, 512), 100)};
  model.wait_until_held();
  CHECK(sleep_now_and_resume(engine, model, SleepMode::kKeep).kind == Kind::kDone);
  model.fail_restores(1);
  CHECK(wake_now(engine).kind == Kind::kNotWoken);
  CHECK(wake_now(engine).kind == Kind::kDone);
  for (const auto& sink : sinks) CHECK(sink->wait().finish_reason == FinishReason::kLength);
}

TEST_CASE("idle for long enough an engine sleeps by itself, and a request wakes it", "[engine]") {
  CapturedLog log;
  HashModel model;
  Engine engine(model, {.wake_on_request = true, .sleep_after = 5ms});
  for (uint32_t round = 0; round < 3; ++round) {
    const auto falls_asleep = [&] {
      for (int idx = 0; idx < 60'000; ++idx) {
        if (engine.stats().sleep_state == SleepState::kAsleep) return true;
        std::this_thread::sleep_for(2ms);
      }
      return false;
    };
    CHECK(falls_asleep());
    CHECK(model.released() == kOnDevices);
    const auto sink = submit(engine, make_prompt(round, 30, 512), 20);
    CHECK(sink->wait().finish_reason == FinishReason::kLength);
    CHECK(sink->token_ids() == model.expected_greedy(make_prompt(round, 30, 512), 20));
  }
  CHECK(log.has("no request for 0.005 s: the model sleeps"));
  CHECK(log.has("a request wakes the model"));
  CHECK(log.has("the model is awake, after "));
  // Not under an answer that may ask for more.
  Engine::Answer answer(engine);
  const auto sink = std::make_shared<CollectingSink>();
  REQUIRE(answer.submit(greedy_request(make_prompt(9, 30, 512), 5, sink)).ok());
  CHECK(sink->wait().finish_reason == FinishReason::kLength);
  const int64_t num_restores = model.num_restores();
  std::this_thread::sleep_for(50ms);
  CHECK(engine.stats().sleep_state == SleepState::kAwake);
  CHECK(model.num_restores() == num_restores);
  CHECK(model.violations().empty());
}

TEST_CASE("an engine that ends while it sleeps, falls asleep or wakes tells everybody",
          "[engine]") {
  HashModel model;
  Outcome sleeper;
  std::shared_ptr<CollectingSink> kept;
  {
    Engine engine(model, {});
    kept = submit_and_hold(engine, model);
    CHECK(sleep_now_and_resume(engine, model, SleepMode::kKeep).kind == Kind::kDone);
    CHECK_FALSE(engine.drain(1ms));
    CHECK(kept->wait().finish_reason == FinishReason::kAborted);
  }
  CHECK(kept->wait().error == "the server is shutting down");
  HashModel other({.step_delay = 5ms});
  {
    Engine engine(other, {});
    kept = submit(engine, make_prompt(1, 30, 512), 4000);
    engine.sleep(kOnDevices, SleepMode::kWait, sleeper.done());
  }
  CHECK(sleeper.wait().kind == Kind::kEnded);
  CHECK(kept->wait().finish_reason == FinishReason::kAborted);
  Outcome waker;
  {
    Engine engine(other, {});
    CHECK(sleep_now(engine).kind == Kind::kDone);
    other.hold_restores();
    engine.wake_up(kAll, waker.done());
    other.wait_until_restoring();
  }
  CHECK(waker.wait().message == "the server is shutting down");
}

TEST_CASE("a model that cannot give its memory back has failed", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const auto kept = submit_and_hold(engine, model);
  model.fail_releases();
  const SleepOutcome outcome = sleep_now_and_resume(engine, model, SleepMode::kKeep);
  CHECK(outcome.kind == Kind::kEnded);
  CHECK(outcome.message == "the engine failed: the fake device failed");
  CHECK(kept->wait().finish_reason == FinishReason::kError);
  CHECK(engine.stats().failed);
  CHECK(sleep_now(engine).kind == Kind::kEnded);
  CHECK(wake_now(engine).kind == Kind::kEnded);
}

TEST_CASE(
    "requests, aborts, sleeps and wakings in any order: everybody is told once, no step runs "
    "without memory",
    "[engine]") {
  const bool wake_on_request = GENERATE(false, true);
  HashModel model({.num_kv_pages = 16, .step_delay = 50us});
  std::atomic<int64_t> num_orders{0};
  std::atomic<int64_t> num_outcomes{0};
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  {
    Engine engine(
        model,
        {.max_sequences = 4, .prefill_chunk_tokens = 40, .wake_on_request = wake_on_request});
    std::thread orders([&] {
      std::minstd_rand random(7);
      const auto count = [&](const SleepOutcome&) { ++num_outcomes; };
      for (int idx = 0; idx < 300; ++idx) {
        const ModelMemory memory = random() % 3 == 0   ? kKvCache
                                   : random() % 2 == 0 ? kWeights
                                                       : kAll;
        ++num_orders;
        if (random() % 2 == 0) {
          engine.sleep(memory, static_cast<SleepMode>(random() % 3), count);
        } else {
          engine.wake_up(random() % 4 == 0 ? memory : kAll, count);
        }
        if (random() % 4 == 0) std::this_thread::sleep_for(200us);
      }
      ++num_orders;
      engine.wake_up(kAll, count);
    });
    std::minstd_rand random(11);
    for (uint32_t idx = 0; idx < 400; ++idx) {
      const auto sink = std::make_shared<CollectingSink>();
      const auto submitted =
          engine.submit(greedy_request(make_prompt(idx, 10 + idx % 100, 512), 8, sink));
      if (submitted.ok()) sinks.push_back(sink);
      if (submitted.ok() && random() % 5 == 0) engine.abort(*submitted);
      if (random() % 4 == 0) std::this_thread::sleep_for(100us);
    }
    orders.join();
    CHECK(wake_now(engine).kind == Kind::kDone);
    CHECK(engine.drain(120s));
    CHECK(engine.stats().kv_pages_used == 0);
  }
  CHECK(num_outcomes == num_orders);
  if (wake_on_request) CHECK(sinks.size() > 10);
  for (size_t idx = 0; idx < sinks.size(); ++idx) {
    CHECK(sinks[idx]->num_finished() == 1);
    CHECK_FALSE(sinks[idx]->has_token_after_end());
  }
  CHECK(model.violations().empty());
}

}  // namespace
}  // namespace tandem::tests
