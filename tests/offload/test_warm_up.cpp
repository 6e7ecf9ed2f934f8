#include "offload/warm_up.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "tests/offload/model_fixture.h"
#include "tests/offload/recording_ops.h"

namespace tandem::tests {
namespace {

TEST_CASE("steps before the first request have every size class within the limits", "[offload]") {
  const int32_t max_batch_tokens = GENERATE(1, 2, 20, 33, 576, 4096);
  const int32_t max_context_tokens = GENERATE(64, 100, 4096, 262'144);
  const std::vector<offload::WarmUpStep> steps =
      offload::warm_up_steps(max_batch_tokens, max_context_tokens);
  int32_t most_rows = 0;
  for (const offload::WarmUpStep& step : steps) {
    CHECK(step.num_rows() >= 1);
    CHECK(step.num_rows() <= max_batch_tokens);
    CHECK(step.num_tokens + step.context_size_tokens <= max_context_tokens);
    CHECK(step.context_size_tokens >= 0);
    most_rows = std::max(most_rows, step.num_rows());
  }
  if (max_batch_tokens > 1) CHECK(most_rows >= std::min(max_batch_tokens, max_context_tokens));
  // Two sizes between which there is a power of two are two classes.
  for (int32_t rows = 32; rows <= std::min(max_batch_tokens, max_context_tokens); rows *= 2) {
    CHECK(std::count(steps.begin(), steps.end(), offload::WarmUpStep{.num_tokens = rows}) == 1);
  }
}

TEST_CASE("a model that has warmed up computes the same", "[offload]") {
  const std::string dir = golden_dir("k2_thinking");
  const Checkpoint checkpoint = Checkpoint::open(dir);
  WorkerPool pool(Topology::detect(), {.num_threads = 2, .pin = false});
  const std::vector<int32_t> prompt = random_tokens(20, checkpoint.config().vocab_size, 31);
  const auto tokens_with = [&](bool warm_up, size_t num_devices) {
    const auto model = offload::KimiK2::load(
        checkpoint, pool,
        {.kv_cache_tokens = 320,
         .max_batch_tokens = 100,
         .max_context_tokens = 320,
         .devices = std::vector<gpu::LogicalDevice>(num_devices),
         .gpu_expert_layers = 1,
         .warm_up = warm_up,
         .make_ops = [](const gpu::LogicalDevice&,
                        WorkerPool& workers) { return std::make_unique<RecordingOps>(workers); }},
        {});
    return continue_greedily(*model, prompt, 8);
  };
  const std::vector<int32_t> expected = tokens_with(false, 1);
  CHECK(tokens_with(true, 1) == expected);
  CHECK(tokens_with(true, 2) == expected);
}

}  // namespace
}  // namespace tandem::tests
