// Constraints on what a sequence may say: asked before and told of every token, by their sequence
// alone.
#include <catch2/catch_test_macros.hpp>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

using Tokens = TokenConstraint::Allowance::Tokens;

// Allows the tokens begin, begin + 1, ... in this order, `num_tokens` of them; what comes then is
// `end`.
class CountingConstraint : public TokenConstraint {
 public:
  CountingConstraint(int32_t begin, int32_t num_tokens, Allowance end)
      : next_(begin), end_token_(begin + num_tokens), end_(end) {}

  Allowance allow(std::span<uint32_t> mask) override {
    if (next_ == end_token_) return end_;
    for (uint32_t& word : mask) word = 0;
    mask[next_ / 32] |= 1u << (next_ % 32);
    return {Tokens::kMasked, false};
  }
  bool accept(int32_t token_id) override { return next_ == end_token_ || token_id == next_++; }
  [[nodiscard]] std::string feature() const override { return "the counting"; }

 private:
  int32_t next_;
  int32_t end_token_;
  Allowance end_;
};

// Allows everything, and takes 0.3 s of its thread's time to say so.
class SlowConstraint : public CountingConstraint {
 public:
  SlowConstraint() : CountingConstraint(0, 0, {Tokens::kAll, true}) {}
  Allowance allow(std::span<uint32_t> mask) override {
    const std::clock_t begin = thread_time();
    while (thread_time() - begin < CLOCKS_PER_SEC * 3 / 10) {
    }
    return CountingConstraint::allow(mask);
  }

 private:
  static std::clock_t thread_time() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * CLOCKS_PER_SEC + now.tv_nsec / (1'000'000'000 / CLOCKS_PER_SEC);
  }
};

constexpr TokenConstraint::Allowance kComplete{Tokens::kNone, true};
constexpr TokenConstraint::Allowance kDeadEnd{Tokens::kNone, false};
constexpr TokenConstraint::Allowance kFree{Tokens::kAll, true};

std::vector<int32_t> counted(int32_t begin, int32_t num_tokens) {
  std::vector<int32_t> ids;
  for (int32_t idx = 0; idx < num_tokens; ++idx) ids.push_back(begin + idx);
  return ids;
}

TEST_CASE("a constraint decides, greedy and sampled, and ends what is complete", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  for (const float temperature : {0.0f, 1.0f}) {
    const auto sink = std::make_shared<CollectingSink>();
    GenerationRequest request = greedy_request(make_prompt(1, 10, 512), 100, sink);
    request.sampling.temperature = temperature;
    request.stop_token_ids = {511};
    request.min_new_tokens = 60;  // a complete answer ends all the same
    request.constraint = std::make_shared<CountingConstraint>(40, 50, kComplete);
    REQUIRE(engine.submit(request).ok());
    const TokenEvent last = sink->wait();
    CHECK(last.finish_reason == FinishReason::kStop);
    CHECK(last.completion_tokens == 50);
    CHECK(sink->token_ids() == counted(40, 50));
  }
  CHECK(model.violations().empty());
}

TEST_CASE("a dead end fails its request by name and no other", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(2, 70, 512);
  const auto free = std::make_shared<CollectingSink>();
  const auto dead = std::make_shared<CollectingSink>();
  const auto forbidden = std::make_shared<CollectingSink>();
  model.pause();
  REQUIRE(engine.submit(greedy_request(prompt, 80, free)).ok());
  GenerationRequest request = greedy_request(make_prompt(3, 10, 512), 80, dead);
  request.constraint = std::make_shared<CountingConstraint>(7, 20, kDeadEnd);
  REQUIRE(engine.submit(request).ok());
  // Allowed is only what must not come: the sampler is left with nothing.
  request.sink = forbidden;
  request.constraint = std::make_shared<CountingConstraint>(7, 20, kDeadEnd);
  request.min_new_tokens = 80;
  request.stop_token_ids = {10};
  REQUIRE(engine.submit(request).ok());
  model.resume();
  const TokenEvent failed = dead->wait();
  CHECK(failed.finish_reason == FinishReason::kError);
  CHECK(failed.error.find("the counting") != std::string::npos);
  CHECK(failed.by_demand);
  CHECK(dead->token_ids() == counted(7, 20));
  const TokenEvent without_choice = forbidden->wait();
  CHECK(without_choice.finish_reason == FinishReason::kError);
  CHECK(without_choice.error.find("the counting") != std::string::npos);
  CHECK(without_choice.by_demand);
  CHECK(free->wait().finish_reason == FinishReason::kLength);
  CHECK(free->token_ids() == model.expected_greedy(prompt, 80));
  CHECK_FALSE(engine.stats().failed);
  CHECK(engine.stats().kv_pages_used == 0);
}

TEST_CASE("a constraint that takes too much of everybody's time fails its request alone",
          "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(6, 30, 512);
  const auto free = std::make_shared<CollectingSink>();
  const auto slow = std::make_shared<CollectingSink>();
  model.pause();
  REQUIRE(engine.submit(greedy_request(prompt, 40, free)).ok());
  GenerationRequest request = greedy_request(prompt, 40, slow);
  request.constraint = std::make_shared<SlowConstraint>();
  REQUIRE(engine.submit(request).ok());
  model.resume();
  const TokenEvent failed = slow->wait();
  CHECK(failed.finish_reason == FinishReason::kError);
  CHECK(failed.error == "finding out what may follow takes too long in the counting");
  CHECK(failed.by_demand);
  CHECK(slow->num_tokens() <= 6);  // 2 s, and 5 ms a token
  CHECK(free->wait().finish_reason == FinishReason::kLength);
  CHECK(free->token_ids() == model.expected_greedy(prompt, 40));
}

TEST_CASE("where a constraint leaves the model free, it says what it would have said", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(4, 30, 512);
  const auto sink = std::make_shared<CollectingSink>();
  GenerationRequest request = greedy_request(prompt, 60, sink);
  request.constraint = std::make_shared<CountingConstraint>(9, 0, kFree);
  REQUIRE(engine.submit(request).ok());
  CHECK(sink->wait().finish_reason == FinishReason::kLength);
  CHECK(sink->token_ids() == model.expected_greedy(prompt, 60));
}

TEST_CASE("an answer that may not end does not, whatever its stop tokens", "[engine]") {
  // Free but for the end: the stop token is the model's own next choice.
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(5, 30, 512);
  const int32_t stop = model.expected_greedy(prompt, 1)[0];
  const auto sink = std::make_shared<CollectingSink>();
  GenerationRequest request = greedy_request(prompt, 40, sink);
  request.stop_token_ids = {stop};
  request.constraint =
      std::make_shared<CountingConstraint>(9, 0, TokenConstraint::Allowance{Tokens::kAll, false});
  REQUIRE(engine.submit(request).ok());
  CHECK(sink->wait().finish_reason == FinishReason::kLength);
  CHECK(sink->num_tokens() == 40);
}

TEST_CASE("constraints follow their own sequences through batches and preemption", "[engine]") {
  HashModel model({.num_kv_pages = 12, .max_context_tokens = 512});
  Engine engine(model, {.max_sequences = 8});
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int32_t idx = 0; idx < 8; ++idx) {
    sinks.push_back(std::make_shared<CollectingSink>());
    GenerationRequest request = greedy_request(make_prompt(10 + idx, 20, 512), 200, sinks.back());
    request.sampling.temperature = idx % 2 == 0 ? 0.0f : 0.7f;
    request.constraint = std::make_shared<CountingConstraint>(10 * idx, 190, kComplete);
    REQUIRE(engine.submit(request).ok());
  }
  for (int32_t idx = 0; idx < 8; ++idx) {
    CHECK(sinks[idx]->wait().finish_reason == FinishReason::kStop);
    CHECK(sinks[idx]->token_ids() == counted(10 * idx, 190));
  }
  CHECK(model.violations().empty());
}

}  // namespace
}  // namespace tandem::tests
