// What makes KV pages of two models exchangeable, and what does not.
#include <fmt/format.h>

#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <string_view>

#include "offload/kv_identity.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "tests/offload/model_fixture.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem::tests {
namespace {

namespace fs = std::filesystem;

std::string identity_of(const std::string& dir,
                        int num_threads = 2,
                        const offload::KimiK2Options& options = {}) {
  return LoadedModel(dir, num_threads, options).model->kv_identity();
}

std::string identity_of_files(const fs::path& dir) {
  return offload::kv_identity(Checkpoint::open(dir), {.devices = {"a device"}});
}

void write_synthetic(const fs::path& dir, uint64_t seed) {
  write_synthetic_checkpoint(
      dir, {.config = tiny_k2_config(), .seed = seed, .tiktoken_model = {}, .overwrite = true}, {});
}

TEST_CASE("pages can be exchanged whatever the threads, the cache and the number of devices",
          "[offload]") {
  const std::string dir = golden_dir("k2_thinking");
  const std::string identity = identity_of(dir);
  CHECK(identity.find('\n') == std::string::npos);
  CHECK(identity_of(dir, 1) == identity);
  CHECK(identity_of(dir, 2, {.devices = {{}, {}}}) == identity);
  CHECK(identity_of(dir, 2, {.kv_host_size_bytes = int64_t{1} << 20}) == identity);
  const Checkpoint checkpoint = Checkpoint::open(dir);
  WorkerPool pool(Topology::detect(), {.num_threads = 2, .pin = false});
  const auto model = offload::KimiK2::load(
      checkpoint, pool, {.kv_cache_tokens = 640, .max_batch_tokens = 64, .max_context_tokens = 256},
      {});
  CHECK(model->kv_identity() == identity);
  model->release_memory(kAllModelMemory);
  CHECK(model->kv_identity() == identity);
}

TEST_CASE("models that compute otherwise, or are others, have identities of their own",
          "[offload]") {
  const std::string dir = golden_dir("k2_thinking");
  std::set<std::string> identities = {
      identity_of(dir),
      identity_of(dir, 2, {.mla_form = gpu::MlaForm::kAbsorbed}),
      identity_of(dir, 2, {.mla_form = gpu::MlaForm::kExpanded}),
      identity_of(dir, 2, {.expert_activations = cpu_experts::ActivationMode::kInt8}),
      identity_of(dir, 2, {.gpu_expert_layers = 1}),
      identity_of(golden_dir("moonlight")),
      identity_of(AllExpertsCopy("k2_thinking").dir()),  // the same weights under another config
  };
  CHECK(identities.size() == 7);
  const Checkpoint checkpoint = Checkpoint::open(dir);
  // Names that no CPU has: those above are this one's.
  for (const offload::KvArithmetic& arithmetic :
       {offload::KvArithmetic{.devices = {"host, one"}, .host_experts = "one", .num_nodes = 1},
        offload::KvArithmetic{.devices = {"host, other"}, .host_experts = "one", .num_nodes = 1},
        offload::KvArithmetic{.devices = {"host, one"}, .host_experts = "other", .num_nodes = 1},
        offload::KvArithmetic{.devices = {"host, one"}, .host_experts = "one", .num_nodes = 2},
        offload::KvArithmetic{
            .devices = {"a card", "another"}, .host_experts = "one", .num_nodes = 1}}) {
    CHECK(identities.insert(offload::kv_identity(checkpoint, arithmetic)).second);
  }
}

TEST_CASE("a checkpoint is the same in another folder and at another time, other weights are not",
          "[offload]") {
  const test::TempDir first;
  const test::TempDir second;
  write_synthetic(first.path(), 1);
  write_synthetic(second.path(), 1);
  for (const auto& entry : fs::directory_iterator(second.path()))
    fs::last_write_time(entry, fs::file_time_type::clock::now() - std::chrono::hours(48));
  CHECK(identity_of_files(second.path()) == identity_of_files(first.path()));
  write_synthetic(second.path(), 2);
  CHECK(identity_of_files(second.path()) != identity_of_files(first.path()));
}

// Every value changed, as a fine-tune does.
void train(const fs::path& dir, std::string_view tensor_name) {
  int64_t begin = 0;
  int64_t size = 0;
  fs::path shard;
  {
    const Checkpoint checkpoint = Checkpoint::open(dir);
    const TensorInfo* const info = checkpoint.index().find(tensor_name);
    REQUIRE(info != nullptr);
    begin = info->file_offset_bytes;
    size = info->size_bytes;
    shard = checkpoint.index().shards()[static_cast<size_t>(info->shard_idx)];
  }
  std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
  std::string bytes(static_cast<size_t>(size), '\0');
  file.seekg(begin);
  file.read(bytes.data(), size);
  for (size_t idx = 0; idx < bytes.size(); idx += 2) bytes[idx] = static_cast<char>(bytes[idx] ^ 1);
  file.seekp(begin);
  file.write(bytes.data(), size);
  REQUIRE(file.good());
}

TEST_CASE("a fine-tune of one tensor, or of a layer's experts, is another model", "[offload]") {
  const test::TempDir dir;
  write_synthetic(dir.path(), 1);
  std::set<std::string> identities = {identity_of_files(dir.path())};
  for (const char* tensor :
       {"model.embed_tokens.weight", "model.layers.0.self_attn.q_a_proj.weight",
        "model.layers.1.input_layernorm.weight", "model.layers.1.mlp.gate.weight",
        "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.2.mlp.shared_experts.up_proj.weight"}) {
    INFO(tensor);
    train(dir.path(), tensor);
    CHECK(identities.insert(identity_of_files(dir.path())).second);
  }
  // Of the routed experts not all are looked at.
  const int32_t num_experts = Checkpoint::open(dir.path()).config().n_routed_experts;
  REQUIRE(num_experts >= 8);
  for (int32_t expert_idx = 0; expert_idx < num_experts; ++expert_idx) {
    for (const char* projection : {"gate", "up", "down"}) {
      train(dir.path(), fmt::format("model.layers.2.mlp.experts.{}.{}_proj.weight_scale",
                                    expert_idx, projection));
    }
  }
  CHECK(identities.insert(identity_of_files(dir.path())).second);
}

}  // namespace
}  // namespace tandem::tests
