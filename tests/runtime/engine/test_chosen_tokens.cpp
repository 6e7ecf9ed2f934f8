// A model that chooses tokens itself: what the engine leaves to it, and that nobody can tell.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <limits>
#include <string>

#include "tests/runtime/engine/engine_fixture.h"

namespace tandem::tests {
namespace {

int64_t num_chosen(const FakeModel& model) {
  const std::vector<StepTrace> traces = model.traces();
  return std::count_if(traces.begin(), traces.end(),
                       [](const StepTrace& trace) { return trace.is_chosen; });
}

// A conversation of its own for each way to ask.
std::vector<GenerationRequest> plain_requests() {
  std::vector<GenerationRequest> requests;
  for (uint32_t idx = 0; idx < 5; ++idx) {
    GenerationRequest request = greedy_request(make_prompt(idx, 40, 512), 20, nullptr);
    if (idx > 0) request.sampling.temperature = 0.8f;
    if (idx == 2) request.sampling.top_k = 7;
    if (idx == 3) request.sampling.top_p = 0.7f;
    if (idx == 4) request.sampling.min_p = 0.1f;
    request.sampling.seed = 77 + idx;
    requests.push_back(std::move(request));
  }
  return requests;
}

// The tokens of all requests, sent at once.
std::vector<std::vector<int32_t>> answers_of(FakeModel& model,
                                             std::vector<GenerationRequest> requests) {
  Engine engine(model, {});
  model.pause();
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (GenerationRequest& request : requests) {
    sinks.push_back(std::make_shared<CollectingSink>());
    request.sink = sinks.back();
    REQUIRE(engine.submit(request).ok());
  }
  model.resume();
  std::vector<std::vector<int32_t>> answers;
  for (const auto& sink : sinks) {
    sink->wait();
    answers.push_back(sink->token_ids());
  }
  CHECK(model.violations().empty());
  return answers;
}

TEST_CASE("tokens that the model chooses are those that the engine would", "[engine]") {
  HashModel plain;
  HashModel chooser({.chooses_tokens = true});
  CHECK(answers_of(chooser, plain_requests()) == answers_of(plain, plain_requests()));
  CHECK(num_chosen(plain) == 0);
  CHECK(num_chosen(chooser) >= 20);
}

TEST_CASE("a step with a request that needs its logits is sampled by the engine, others are not",
          "[engine]") {
  const auto with = [](const auto& change) {
    std::vector<GenerationRequest> requests = plain_requests();
    requests.front().max_new_tokens = 8;
    change(requests.front());
    HashModel plain;
    HashModel chooser({.chooses_tokens = true});
    CHECK(answers_of(chooser, requests) == answers_of(plain, requests));
    // The others go on for 12 tokens, alone.
    CHECK(num_chosen(chooser) >= 11);
    CHECK(num_chosen(chooser) <= 14);
  };
  with([](GenerationRequest& request) { request.num_logprobs = 0; });
  with([](GenerationRequest& request) { request.sampling.repetition_penalty = 1.3f; });
  with([](GenerationRequest& request) { request.sampling.presence_penalty = 0.5f; });
  with([](GenerationRequest& request) { request.sampling.logit_bias = {{3, 2.0f}}; });
  with([](GenerationRequest& request) {
    request.stop_token_ids = {511};
    request.min_new_tokens = 8;
  });
}

// No token is possible behind the prompt's last.
class SilentModel final : public FakeModel {
 public:
  SilentModel() : FakeModel({.chooses_tokens = true}) {}

 protected:
  void logits_of(std::span<const int32_t>, std::span<float> logits) const override {
    std::fill(logits.begin(), logits.end(), std::numeric_limits<float>::quiet_NaN());
  }
};

TEST_CASE("a row that allows no token ends its request alone, chosen by the model as well",
          "[engine]") {
  SilentModel model;
  Engine engine(model, {});
  const auto sink = std::make_shared<CollectingSink>();
  REQUIRE(engine.submit(greedy_request(make_prompt(1, 10, 512), 5, sink)).ok());
  const TokenEvent last = sink->wait();
  CHECK(last.finish_reason == FinishReason::kError);
  CHECK(last.error == "the model gave no possible next token");
  CHECK(num_chosen(model) == 1);
  CHECK(engine.stats().num_running == 0);
}

}  // namespace
}  // namespace tandem::tests
