#include "offload/placement.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "offload/workspace.h"
#include "runtime/base/errors.h"
#include "tests/offload/model_fixture.h"

namespace tandem::tests {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

TEST_CASE("the plan keeps to the KV tokens asked for, in whole pages", "[offload]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("k2_thinking"));
  const offload::Placement placement = offload::plan_placement(
      checkpoint, {.kv_cache_tokens = 1000, .max_batch_tokens = 64, .max_logit_rows = 8}, 4 * kGiB);
  CHECK(placement.num_kv_pages == 16);
  CHECK(placement.kv_size_bytes == int64_t{16} * 64 * checkpoint.config().kv_dim() * 2 *
                                       checkpoint.config().num_hidden_layers);
  CHECK(placement.max_context_tokens == 1024);  // no sequence can be longer than the cache
}

TEST_CASE("without a wish the cache holds several full contexts", "[offload]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("k2_thinking"));
  const offload::Placement placement =
      offload::plan_placement(checkpoint, {.max_batch_tokens = 64, .max_logit_rows = 8}, 64 * kGiB);
  CHECK(placement.max_context_tokens == checkpoint.config().max_position_embeddings);
  CHECK(placement.num_kv_pages >= 4 * placement.max_context_tokens / 64);
  CHECK(placement.total_size_bytes() < 64 * kGiB);
}

TEST_CASE("a plan that does not fit names what is needed, what there is and what to change",
          "[offload]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("k2_thinking"));
  using Catch::Matchers::ContainsSubstring;
  using Catch::Matchers::MessageMatches;
  CHECK_THROWS_MATCHES(
      offload::plan_placement(
          checkpoint, {.kv_cache_tokens = 100'000'000, .max_batch_tokens = 64, .max_logit_rows = 8},
          kGiB),
      LoadError,
      MessageMatches(ContainsSubstring("does not fit") && ContainsSubstring("--kv-cache-tokens") &&
                     ContainsSubstring("KV cache")));
  CHECK_THROWS_AS(
      offload::plan_placement(
          checkpoint,
          {.kv_cache_tokens = int64_t{1} << 40, .max_batch_tokens = 64, .max_logit_rows = 8}, kGiB),
      ConfigError);
}

TEST_CASE("the memory map names every part", "[offload]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("moonlight"));
  const std::string map = offload::format_memory_map(offload::plan_placement(
      checkpoint, {.max_batch_tokens = 64, .max_logit_rows = 8}, 64 * kGiB));
  for (const char* part : {"dense weights", "routed experts", "KV cache", "workspace", "total"}) {
    CHECK_THAT(map, Catch::Matchers::ContainsSubstring(part));
  }
}

TEST_CASE("available memory is a positive amount", "[offload]") {
  CHECK(offload::available_memory_size_bytes() > 0);
}

}  // namespace
}  // namespace tandem::tests
