#include "runtime/model/expert_reader.h"

#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

using test::TempDir;

ModelConfig small_config() {
  ModelConfig config = ModelConfig::load(std::filesystem::path(TANDEM_SOURCE_DIR) /
                                         "tests/data/goldens/k2_thinking");
  config.tie_word_embeddings = false;
  return config;
}

bool same(const Int4Matrix& left, const Int4Matrix& right) {
  const auto num_bytes = static_cast<size_t>(left.packed.rows * left.packed.cols);
  const auto num_scales = static_cast<size_t>(left.scale.rows * left.scale.cols);
  return left.packed.rows == right.packed.rows && left.packed.cols == right.packed.cols &&
         std::memcmp(left.packed.data, right.packed.data, num_bytes) == 0 &&
         std::memcmp(left.scale.data, right.scale.data, num_scales * sizeof(bf16)) == 0;
}

TEST_CASE("experts are the same bytes however they are read, by any number of workers and users",
          "[expert_reader]") {
  const TempDir dir;
  write_synthetic_checkpoint(dir.path(), {.config = small_config(), .tiktoken_model = {}}, nullptr);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const ModelConfig& config = checkpoint.config();
  const auto reading =
      GENERATE(ExpertReading::kAuto, ExpertReading::kMapped, ExpertReading::kDirect);
  const int num_users = GENERATE(1, 2);
  const int workers_a_user = GENERATE(1, 3);
  std::atomic<int> num_wrong{0};
  std::atomic<int> num_read{0};
  ExpertReader reader(
      checkpoint,
      {.num_workers = num_users * workers_a_user, .num_users = num_users, .reading = reading});
  const auto work = [&](int worker_idx) {
    Checkpoint::ExpertScratch scratch;
    for (int32_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
      if (config.is_dense(layer_idx)) continue;
      for (int32_t expert_idx = worker_idx % workers_a_user; expert_idx < config.n_routed_experts;
           expert_idx += workers_a_user) {
        const ExpertTensors read = reader.expert(layer_idx, expert_idx, worker_idx);
        const ExpertTensors mapped = checkpoint.expert(layer_idx, expert_idx, scratch);
        num_wrong += !same(read.gate_proj, mapped.gate_proj) ||
                     !same(read.up_proj, mapped.up_proj) || !same(read.down_proj, mapped.down_proj);
        ++num_read;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int worker_idx = 0; worker_idx < num_users * workers_a_user; ++worker_idx) {
    threads.emplace_back(work, worker_idx);
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(num_wrong.load() == 0);
  CHECK(num_read.load() == num_users * config.n_routed_experts * config.num_moe_layers());
  if (reading == ExpertReading::kMapped) CHECK(reader.direct_read_bytes() == 0);
  if (reading != ExpertReading::kDirect) return;
  // Direct reads fetch an expert once, whatever the number of nodes that pack it.
  ExpertReader alone(checkpoint, {.reading = reading});
  for (int32_t layer_idx = config.first_k_dense_replace; layer_idx < config.num_hidden_layers;
       ++layer_idx) {
    for (int32_t expert_idx = 0; expert_idx < config.n_routed_experts; ++expert_idx) {
      static_cast<void>(alone.expert(layer_idx, expert_idx, 0));
    }
  }
  CHECK(reader.direct_read_bytes() == alone.direct_read_bytes());
  CHECK(reader.direct_read_bytes() >= checkpoint.resident_expert_size_bytes());
}

TEST_CASE("layers that one node alone reads do not wait for the others", "[expert_reader]") {
  const TempDir dir;
  write_synthetic_checkpoint(dir.path(), {.config = small_config(), .tiktoken_model = {}}, nullptr);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const ModelConfig& config = checkpoint.config();
  REQUIRE(config.num_moe_layers() > 1);
  ExpertReader reader(checkpoint, {.num_workers = 2,
                                   .num_users = 2,
                                   .num_single_use_layers = 1,
                                   .reading = ExpertReading::kDirect});
  Checkpoint::ExpertScratch scratch;
  for (int32_t layer_idx = config.first_k_dense_replace; layer_idx < config.num_hidden_layers;
       ++layer_idx) {
    const bool is_first = layer_idx == config.first_k_dense_replace;
    // Buffers are fewer than experts: one that is not given back would end this here.
    for (int32_t expert_idx = 0; expert_idx < config.n_routed_experts; ++expert_idx) {
      for (int worker_idx = 0; worker_idx < (is_first ? 1 : 2); ++worker_idx) {
        CHECK(same(reader.expert(layer_idx, expert_idx, worker_idx).down_proj,
                   checkpoint.expert(layer_idx, expert_idx, scratch).down_proj));
      }
    }
  }
}

TEST_CASE("BF16 experts come quantised from the reader too", "[expert_reader]") {
  const Checkpoint checkpoint =
      Checkpoint::open(std::filesystem::path(TANDEM_SOURCE_DIR) / "tests/data/goldens/moonlight");
  ExpertReader reader(checkpoint, {.num_workers = 1});
  Checkpoint::ExpertScratch scratch;
  for (const int32_t expert_idx : {0, 1, 5}) {
    CHECK(same(reader.expert(2, expert_idx, 0).up_proj,
               checkpoint.expert(2, expert_idx, scratch).up_proj));
  }
}

TEST_CASE("a reader that is not read to its end goes away", "[expert_reader]") {
  const TempDir dir;
  write_synthetic_checkpoint(dir.path(), {.config = small_config(), .tiktoken_model = {}}, nullptr);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const int32_t first_moe_layer = checkpoint.config().first_k_dense_replace;
  ExpertReader unused(checkpoint, {.reading = ExpertReading::kDirect});
  ExpertReader begun(checkpoint, {.reading = ExpertReading::kDirect});
  CHECK(begun.expert(first_moe_layer, 0, 0).gate_proj.packed.data != nullptr);
}

TEST_CASE("a file that shrinks while it is read is an error, not a crash", "[expert_reader]") {
  const TempDir dir;
  write_synthetic_checkpoint(dir.path(), {.config = small_config(), .tiktoken_model = {}}, nullptr);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  for (const std::filesystem::path& shard : checkpoint.index().shards()) {
    std::filesystem::resize_file(shard, 4096);
  }
  ExpertReader reader(checkpoint, {.reading = ExpertReading::kDirect});
  CHECK_THROWS_AS(reader.expert(checkpoint.config().first_k_dense_replace, 0, 0), LoadError);
}

}  // namespace
}  // namespace tandem
