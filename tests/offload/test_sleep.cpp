// Memory of a model given back and taken again: it goes, it comes, and the model says what it said
// before.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "offload/placement.h"
#include "runtime/base/errors.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "tests/offload/model_fixture.h"
#include "tests/offload/recording_ops.h"
#include "tests/runtime/model/temp_dir.h"
#include "tests/support/process_memory.h"

namespace tandem::tests {
namespace {

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

constexpr ModelMemory kWeights{.weights = true};
constexpr ModelMemory kKvCache{.kv_cache = true};
constexpr ModelMemory kOnDevices{.weights = true, .kv_cache = true};
constexpr ModelMemory kAll{.weights = true, .host_weights = true, .kv_cache = true};

// Of this process.
struct MemoryUse {
  int64_t virtual_bytes = 0;
  int64_t anonymous_bytes = 0;  // resident, and no view of a file
};
MemoryUse memory_use() {
  return {.virtual_bytes = process_memory_bytes("VmSize:"),
          .anonymous_bytes = process_memory_bytes("RssAnon:")};
}

// A device that has only so many allocations left.
class PoorOps : public RecordingOps {
 public:
  PoorOps(WorkerPool& pool, int& num_left) : RecordingOps(pool), num_left_(num_left) {}
  std::unique_ptr<gpu::DeviceBuffer> allocate(size_t size_bytes) override {
    take_one();
    return RecordingOps::allocate(size_bytes);
  }
  std::unique_ptr<gpu::LinearWeight> load_linear(MatrixView<const bf16> weight) override {
    take_one();
    return RecordingOps::load_linear(weight);
  }

 private:
  void take_one() {
    if (--num_left_ < 0) throw LoadError("no memory left");
  }
  int& num_left_;
};

TEST_CASE("behind a sleep the demo says what it said before, whatever was given back",
          "[offload]") {
  const ModelMemory what = GENERATE(kWeights, kKvCache, kOnDevices, kAll);
  const int32_t expert_layers = GENERATE(0, 1);
  LoadedModel loaded(demo_dir(), 2, {.devices = {{}, {}}, .gpu_expert_layers = expert_layers});
  ForwardModel& model = *loaded.model;
  const std::vector<int32_t> prompt = demo_prompts().front();
  const std::vector<int32_t> expected = continue_greedily(model, prompt, 40);
  const std::string description = model.description();
  for (int round = 0; round < 2; ++round) {
    model.release_memory(what);
    model.release_memory(what);  // twice changes nothing
    CHECK(model.description() == description);
    model.restore_memory(what, {});
    model.restore_memory(what, {});
    CHECK(continue_greedily(model, prompt, 40) == expected);
  }
}

TEST_CASE("what was given back comes back in parts, in any order", "[offload]") {
  LoadedModel loaded(demo_dir(), 2);
  ForwardModel& model = *loaded.model;
  const std::vector<int32_t> prompt = demo_prompts().back();
  const std::vector<int32_t> expected = continue_greedily(model, prompt, 20);
  const bool weights_first = GENERATE(true, false);
  model.release_memory(kAll);
  model.restore_memory(weights_first ? kWeights : kKvCache, {});
  model.restore_memory(weights_first ? kKvCache : kWeights, {});
  CHECK(continue_greedily(model, prompt, 20) == expected);
}

TEST_CASE("recorded steps are recorded again behind a sleep, and compute the same", "[offload]") {
  const auto release = GENERATE(kWeights, kKvCache, kOnDevices);
  RecordingOps* device = nullptr;
  LoadedModel loaded(demo_dir(), 2, {.make_ops = [&](const gpu::LogicalDevice&, WorkerPool& pool) {
                       auto ops = std::make_unique<RecordingOps>(pool);
                       device = ops.get();
                       return ops;
                     }});
  const std::vector<int32_t> prompt = demo_prompts().front();
  const std::vector<int32_t> expected = continue_greedily(*loaded.model, prompt, 20);
  const int64_t num_recorded = device->num_recorded();
  REQUIRE(num_recorded > 0);
  loaded.model->release_memory(release);
  loaded.model->restore_memory(release, {});
  CHECK(continue_greedily(*loaded.model, prompt, 20) == expected);
  CHECK(device->num_recorded() == 2 * num_recorded);
}

ModelConfig config_of_100_mib() {
  ModelConfig config = k2_thinking_config();
  config.hidden_size = 1024;
  config.num_hidden_layers = 2;
  config.intermediate_size = 8192;
  config.moe_intermediate_size = 512;
  config.n_routed_experts = 32;
  config.num_experts_per_tok = 4;
  config.num_attention_heads = 4;
  config.q_lora_rank = 64;
  config.kv_lora_rank = 64;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 32;
  config.vocab_size = 0;
  return config;
}

// Matrices and buffers of some MiB each come from the system and go back to it one by one.
TEST_CASE("a sleeping model's memory is the system's again", "[offload]") {
  const test::TempDir dir;
  write_synthetic_checkpoint(dir.path(), {.config = config_of_100_mib(), .tiktoken_model = {}}, {});
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  WorkerPool pool(Topology::detect(), {.num_threads = 2, .pin = false});
  const auto model = offload::KimiK2::load(
      checkpoint, pool,
      {.kv_cache_tokens = 262'144, .max_batch_tokens = 64, .max_context_tokens = 512}, {});
  const ModelConfig& config = checkpoint.config();
  const int64_t weights_bytes = checkpoint.dense_size_bytes();
  const int64_t experts_bytes = checkpoint.resident_expert_size_bytes();
  const int64_t kv_bytes = int64_t{262'144} * config.num_hidden_layers * config.kv_dim() * 2;
  CHECK(weights_bytes > 40 << 20);
  CHECK(experts_bytes > 25 << 20);
  CHECK(kv_bytes > 50 << 20);
  const auto nearly = [](int64_t size_bytes) { return size_bytes / 10 * 9; };
  const MemoryUse awake = memory_use();
  model->release_memory(kKvCache);
  const MemoryUse without_kv = memory_use();
  CHECK(awake.virtual_bytes - without_kv.virtual_bytes >= nearly(kv_bytes));
  model->release_memory(kWeights);
  const MemoryUse without_weights = memory_use();
  CHECK(without_kv.anonymous_bytes - without_weights.anonymous_bytes >= nearly(weights_bytes));
  model->release_memory({.weights = true, .host_weights = true});
  const MemoryUse asleep = memory_use();
  CHECK(without_weights.anonymous_bytes - asleep.anonymous_bytes >= nearly(experts_bytes));
  model->restore_memory(kAll, {});
  const MemoryUse again = memory_use();
  CHECK(again.virtual_bytes - asleep.virtual_bytes >=
        nearly(kv_bytes + weights_bytes + experts_bytes));
  CHECK(again.anonymous_bytes - asleep.anonymous_bytes >= nearly(weights_bytes + experts_bytes));
  CHECK(again.anonymous_bytes - awake.anonymous_bytes <= 8 << 20);
}

TEST_CASE("a model that finds no room to wake sleeps on, says why, and wakes when there is",
          "[offload]") {
  int num_left = 1000;
  LoadedModel loaded(demo_dir(), 2, {.make_ops = [&](const gpu::LogicalDevice&, WorkerPool& pool) {
                       return std::make_unique<PoorOps>(pool, num_left);
                     }});
  ForwardModel& model = *loaded.model;
  const std::vector<int32_t> prompt = demo_prompts().front();
  const std::vector<int32_t> expected = continue_greedily(model, prompt, 8);
  model.release_memory(kOnDevices);
  const int num_allocations = 1000 - num_left;
  [[maybe_unused]] const int64_t asleep_bytes = memory_use().virtual_bytes;
  for (int num_had : {0, 1, 2, num_allocations / 2}) {
    INFO(num_had << " allocations");
    num_left = num_had;
    CHECK_THROWS_MATCHES(
        model.restore_memory(kOnDevices, {}), LoadError,
        MessageMatches(ContainsSubstring("no memory left") && ContainsSubstring("memory map") &&
                       ContainsSubstring("dense weights")));
#if !defined(__SANITIZE_ADDRESS__)  // which keeps what was freed for a while
    CHECK(memory_use().virtual_bytes - asleep_bytes < 4 << 20);
#endif
  }
  num_left = 1000;
  CHECK_THROWS_AS(model.restore_memory(kOnDevices,
                                       [](const Progress& progress) {
                                         if (progress.done_bytes > 0)
                                           throw std::runtime_error("stopped");
                                       }),
                  std::runtime_error);
  model.restore_memory(kOnDevices, {});
  CHECK(continue_greedily(model, prompt, 8) == expected);
}

TEST_CASE("memory that others have taken meanwhile is named with the map", "[offload]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("k2_thinking"));
  const std::vector<gpu::LogicalDevice> cards = {{.card_idx = 0}, {.card_idx = 1}};
  offload::AvailableMemory available{.host_size_bytes = int64_t{8} << 30,
                                     .card_size_bytes = {int64_t{8} << 30, int64_t{8} << 30}};
  const offload::Placement placement = offload::plan_placement(
      checkpoint,
      {.kv_cache_tokens = 1 << 20,
       .max_batch_tokens = 64,
       .max_logit_rows = 8,
       .devices = cards,
       .ops_size_bytes = [](const gpu::LogicalDevice&, const gpu::OpsLimits&,
                            const gpu::MlaShape&) { return int64_t{1} << 20; }},
      available);
  const auto check = [&](const ModelMemory& what, bool with_workspace) {
    offload::check_room(placement, what, with_workspace, available);
  };
  const offload::DevicePlacement& second = placement.devices[1];
  available.card_size_bytes[1] = second.total_size_bytes();
  CHECK_NOTHROW(check(kAll, true));
  --available.card_size_bytes[1];
  CHECK_THROWS_MATCHES(
      check(kAll, true), LoadError,
      MessageMatches(ContainsSubstring("GPU 1") && ContainsSubstring("memory map")));
  CHECK_NOTHROW(check(kAll, false));
  available.card_size_bytes[1] = second.kv_size_bytes;
  CHECK_NOTHROW(check(kKvCache, false));
  CHECK_THROWS_AS(check(kKvCache, true), LoadError);
  available.host_size_bytes = 1;
  CHECK_NOTHROW(check(kKvCache, false));
  available.card_size_bytes[1] = int64_t{8} << 30;
  CHECK_THROWS_MATCHES(check(kAll, false), LoadError,
                       MessageMatches(ContainsSubstring("the host")));
}

}  // namespace
}  // namespace tandem::tests
