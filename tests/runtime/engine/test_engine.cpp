// What a request gets back.
#include "runtime/engine/engine.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <string>

#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

TEST_CASE("greedy tokens are those of the model without pages", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(1, 100, 512);
  const auto sink = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request(prompt, 150, sink)).ok());
  const TokenEvent last = sink->wait();
  CHECK(last.finish_reason == FinishReason::kLength);
  CHECK(last.error.empty());
  CHECK(last.prompt_tokens == 100);
  CHECK(last.cached_tokens == 0);
  CHECK(last.completion_tokens == 150);
  CHECK(last.stop_token_id == -1);
  CHECK(sink->token_ids() == model.expected_greedy(prompt, 150));
  CHECK(model.violations().empty());
}

TEST_CASE("the pages are known before the first step", "[engine]") {
  HashModel model;
  const Engine engine(model, {});
  CHECK(engine.stats().kv_pages_total == model.num_kv_pages());
  CHECK(engine.stats().kv_pages_used == 0);
}

TEST_CASE("a stop token ends the answer, counts, and is not sent", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const std::vector<int32_t> prompt = make_prompt(2, 20, 512);
  const std::vector<int32_t> expected = model.expected_greedy(prompt, 30);
  const int32_t stop = expected[9];
  const auto first =
      static_cast<size_t>(std::find(expected.begin(), expected.end(), stop) - expected.begin());
  const auto sink = std::make_shared<CollectingSink>();
  GenerationRequest request = greedy_request(prompt, 30, sink);
  request.stop_token_ids = {511, stop};
  REQUIRE(engine.submit(request).ok());
  const TokenEvent last = sink->wait();
  CHECK(last.finish_reason == FinishReason::kStop);
  CHECK(last.stop_token_id == stop);
  CHECK(last.completion_tokens == static_cast<int32_t>(first) + 1);
  CHECK(sink->token_ids() ==
        std::vector<int32_t>(expected.begin(), expected.begin() + static_cast<int64_t>(first)));

  const auto ignoring = std::make_shared<CollectingSink>();
  request.sink = ignoring;
  request.ignore_eos = true;
  REQUIRE(engine.submit(request).ok());
  CHECK(ignoring->wait().finish_reason == FinishReason::kLength);
  CHECK(ignoring->token_ids() == expected);
}

TEST_CASE("stop tokens are not chosen before min_new_tokens", "[engine]") {
  // The model says nothing but stop: what comes instead is the next best, token 0.
  AnswerModel model(
      {.vocab_size = 64},
      {.generation_prompt = {7}, .end_token_id = 3, .script = answers_by_substring({}, {})});
  Engine engine(model, {});
  for (const int32_t min_new_tokens : {0, 1, 5}) {
    const auto sink = std::make_shared<CollectingSink>();
    GenerationRequest request = greedy_request({1, 7}, 10, sink);
    request.stop_token_ids = {3};
    request.min_new_tokens = min_new_tokens;
    REQUIRE(engine.submit(std::move(request)).ok());
    const TokenEvent last = sink->wait();
    CHECK(last.finish_reason == FinishReason::kStop);
    CHECK(sink->token_ids() == std::vector<int32_t>(static_cast<size_t>(min_new_tokens), 0));
    CHECK(last.completion_tokens == min_new_tokens + 1);
  }
}

TEST_CASE("a scripted model plays the answer of the latest key", "[engine]") {
  AnswerModel model({.vocab_size = 64},
                    {.generation_prompt = {50, 51},
                     .end_token_id = 60,
                     .script = answers_by_substring({{{1, 2}, {10, 11, 12}}, {{3}, {20}}}, {9})});
  Engine engine(model, {});
  struct Case {
    std::vector<int32_t> prompt, answer;
  };
  for (const Case& example :
       {Case{{1, 2, 50, 51}, {10, 11, 12}}, Case{{1, 2, 3, 50, 51}, {20}},
        Case{{3, 50, 51, 20, 1, 2, 50, 51}, {10, 11, 12}}, Case{{1, 4, 2, 50, 51}, {9}}}) {
    const auto sink = std::make_shared<CollectingSink>();
    GenerationRequest request = greedy_request(example.prompt, 20, sink);
    request.sampling.temperature = 1.0f;
    request.stop_token_ids = {60};
    REQUIRE(engine.submit(std::move(request)).ok());
    CHECK(sink->wait().finish_reason == FinishReason::kStop);
    CHECK(sink->token_ids() == example.answer);
  }
}

TEST_CASE("logprobs come as many as asked for, best first", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  for (const int32_t num_logprobs : {-1, 0, 5}) {
    const auto sink = std::make_shared<CollectingSink>();
    GenerationRequest request = greedy_request(make_prompt(3, 10, 512), 8, sink);
    request.num_logprobs = num_logprobs;
    REQUIRE(engine.submit(std::move(request)).ok());
    sink->wait();
    for (const TokenEvent& event : sink->tokens()) {
      REQUIRE(event.top_logprobs.size() == static_cast<size_t>(std::max(num_logprobs, 0)));
      CHECK((event.logprob < 0.0f) == (num_logprobs >= 0));
      if (num_logprobs <= 0) continue;
      CHECK(event.top_logprobs[0].token_id == event.token_id);  // greedy
      CHECK(event.top_logprobs[0].logprob == event.logprob);
      CHECK(std::is_sorted(event.top_logprobs.begin(), event.top_logprobs.end(),
                           [](const TokenLogprob& left, const TokenLogprob& right) {
                             return left.logprob > right.logprob;
                           }));
    }
  }
}

TEST_CASE("a seed repeats an answer, no seed does not", "[engine]") {
  HashModel model;
  Engine engine(model, {});
  const auto play = [&](std::optional<uint64_t> seed) {
    const auto sink = std::make_shared<CollectingSink>();
    GenerationRequest request = greedy_request(make_prompt(4, 10, 512), 30, sink);
    request.sampling.temperature = 1.0f;
    request.sampling.seed = seed;
    REQUIRE(engine.submit(std::move(request)).ok());
    sink->wait();
    return sink->token_ids();
  };
  CHECK(play(1) == play(1));
  CHECK(play(1) != play(2));
  CHECK(play(std::nullopt) != play(std::nullopt));
}

// A HashModel's step whose row is NaN when the last token is `bad_token_id`.
class NanModel final : public FakeModel {
 public:
  explicit NanModel(int32_t bad_token_id) : FakeModel({}), bad_token_id_(bad_token_id) {}

 protected:
  void logits_of(std::span<const int32_t> history, std::span<float> logits) const override {
    const bool is_bad = history.back() == bad_token_id_;
    std::fill(logits.begin(), logits.end(),
              is_bad ? std::numeric_limits<float>::quiet_NaN() : 0.0f);
    if (!is_bad) logits[static_cast<size_t>(history.back() + 1)] = 1.0f;
  }

 private:
  int32_t bad_token_id_;
};

TEST_CASE("a row of NaN ends its own request only", "[engine]") {
  NanModel model(105);
  Engine engine(model, {});
  const auto bad = std::make_shared<CollectingSink>();
  const auto good = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request({100}, 50, bad)).ok());
  REQUIRE(engine.submit(greedy_request({200}, 50, good)).ok());
  const TokenEvent last = bad->wait();
  CHECK(last.finish_reason == FinishReason::kError);
  CHECK(last.error == "the model gave no possible next token");
  CHECK_FALSE(last.by_demand);
  CHECK(bad->token_ids() == std::vector<int32_t>{101, 102, 103, 104, 105});
  CHECK(good->wait().finish_reason == FinishReason::kLength);
  CHECK(good->num_tokens() == 50);
  CHECK_FALSE(engine.stats().failed);
}

TEST_CASE("what cannot be run is refused with field, value and expectation", "[engine]") {
  HashModel model({.vocab_size = 100, .num_kv_pages = 8, .max_context_tokens = 300});
  Engine engine(model, {});
  const auto sink = std::make_shared<CollectingSink>();
  const auto refusal = [&](auto change) {
    GenerationRequest request = greedy_request({1, 2, 3}, 10, sink);
    change(request);
    const auto result = engine.submit(std::move(request));
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().kind == SubmitError::Kind::kInvalid);
    return result.error().message;
  };
  CHECK(refusal([](auto& r) { r.sink = nullptr; }) == "sink is missing");
  CHECK(refusal([](auto& r) { r.prompt_ids.clear(); }) ==
        "the prompt is empty, expected at least one token");
  CHECK(refusal([](auto& r) { r.prompt_ids[2] = 100; }) ==
        "prompt token 2 is 100, expected 0 to 99");
  CHECK(refusal([](auto& r) { r.prompt_ids[0] = -1; }) == "prompt token 0 is -1, expected 0 to 99");
  CHECK(refusal([](auto& r) { r.max_new_tokens = 0; }) == "max_tokens is 0, expected at least 1");
  CHECK(refusal([](auto& r) { r.min_new_tokens = 11; }) ==
        "min_tokens is 11, expected 0 to max_tokens (10)");
  CHECK(refusal([](auto& r) { r.stop_token_ids = {100}; }) ==
        "stop_token_ids names token 100, expected 0 to 99");
  CHECK(refusal([](auto& r) { r.num_logprobs = 101; }) == "logprobs is 101, expected 0 to 100");
  CHECK(refusal([](auto& r) { r.sampling.top_p = 0.0f; }) ==
        "top_p is 0, expected more than 0 and at most 1");
  CHECK(engine.stats().num_waiting == 0);
}

TEST_CASE("the context limit is the model's or what the pages hold, to the token", "[engine]") {
  struct Case {
    int32_t num_kv_pages, max_context_tokens, expected;
  };
  for (const Case& example : {Case{8, 300, 300}, Case{2, 300, 128}}) {
    HashModel model(
        {.num_kv_pages = example.num_kv_pages, .max_context_tokens = example.max_context_tokens});
    Engine engine(model, {});
    CHECK(engine.max_context_tokens() == example.expected);
    const auto sink = std::make_shared<CollectingSink>();
    const std::vector<int32_t> prompt = make_prompt(1, example.expected - 10, 512);
    const auto refused = engine.submit(greedy_request(prompt, 11, sink));
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().kind == SubmitError::Kind::kContextTooLong);
    CHECK(refused.error().message ==
          "This model's maximum context length is " + std::to_string(example.expected) +
              " tokens. However, you requested " + std::to_string(example.expected + 1) +
              " tokens (" + std::to_string(example.expected - 10) +
              " in the messages, 11 in the completion). Please reduce the length of the messages "
              "or completion.");
    REQUIRE(engine.submit(greedy_request(prompt, 10, sink)).ok());
    CHECK(sink->wait().finish_reason == FinishReason::kLength);
    CHECK(sink->token_ids() == model.expected_greedy(prompt, 10));
    const auto huge =
        engine.submit(greedy_request(prompt, std::numeric_limits<int32_t>::max(), sink));
    CHECK(huge.error().kind == SubmitError::Kind::kContextTooLong);
    CHECK(model.violations().empty());
  }
}

}  // namespace
}  // namespace tandem::tests
