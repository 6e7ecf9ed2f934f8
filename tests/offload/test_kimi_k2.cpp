#include "offload/kimi_k2.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <memory>

#include "runtime/reference/reference_model.h"
#include "tests/offload/model_fixture.h"
#include "tests/offload/recording_ops.h"
#include "tests/offload/row_error.h"
#include "tests/support/forced_isa.h"

namespace tandem::tests {
namespace {

// Two bounds. Against FP32 the error is that of BF16 itself, which the rounding reference measures
// on the same tokens (random weights have steep softmaxes, and the error differs a lot between
// tokens). Against the rounding reference what is left is the order of FP32 sums: 2^-24 a term, but
// a sum that lies that close to the middle between two BF16 numbers is rounded the other way and
// then counts like any rounding; the absorbed form also rounds where the equations have no value.
TEST_CASE("production logits differ from the reference by the rounding to BF16 and no more",
          "[offload]") {
  const std::string name = GENERATE(from_range(golden_names()));
  const gpu::MlaForm form = GENERATE(gpu::MlaForm::kAbsorbed, gpu::MlaForm::kExpanded);
  const AllExpertsCopy copy(name);
  const bool experts_on_device = GENERATE(false, true);
  const int32_t device_layers = experts_on_device ? num_moe_layers(copy.dir()) : 0;
  LoadedModel loaded(copy.dir(), 2, {.mla_form = form, .gpu_expert_layers = device_layers});
  const int32_t vocab_size = loaded.model->vocab_size();
  const std::vector<int32_t> token_ids = random_tokens(130, vocab_size, 7);
  const std::vector<float> actual = run_chunked(*loaded.model, token_ids, 48);
  const auto reference = [&](ActivationPrecision precision) {
    return ReferenceModel(loaded.checkpoint, ExpertPrecision::kInt4, precision)
        .run(token_ids)
        .logits;
  };
  const std::vector<float> fp32 = reference(ActivationPrecision::kFp32);
  const std::vector<float> bf16 = reference(ActivationPrecision::kBf16);
  const std::vector<double> from_bf16 = row_errors(actual, bf16, vocab_size);
  const std::vector<double> from_fp32 = row_errors(actual, fp32, vocab_size);
  const std::vector<double> price_of_bf16 = row_errors(bf16, fp32, vocab_size);
  INFO(name << ", experts of " << device_layers
            << " layers on the device: from the rounding reference median "
            << quantile(from_bf16, 0.5) << ", worst " << quantile(from_bf16, 1.0) << "; from FP32 "
            << quantile(from_fp32, 0.5) << ", " << quantile(from_fp32, 1.0) << "; rounding alone "
            << quantile(price_of_bf16, 0.5) << ", " << quantile(price_of_bf16, 1.0));
  CHECK(quantile(from_bf16, 0.5) <= 1.5 * quantile(price_of_bf16, 0.5));
  CHECK(quantile(from_fp32, 0.5) <= 1.5 * quantile(price_of_bf16, 0.5));
  CHECK(quantile(from_fp32, 1.0) <= 2.0 * quantile(price_of_bf16, 1.0));
}

// A random router has scores so close that rounding makes another choice for some tokens, and these
// then differ by a whole expert, with all that attend to them: for real routing the typical row is
// judged.
TEST_CASE("with the router's choice the typical row differs by the rounding to BF16", "[offload]") {
  const std::string name = GENERATE(from_range(golden_names()));
  LoadedModel loaded(golden_dir(name), 2);
  const int32_t vocab_size = loaded.model->vocab_size();
  const std::vector<int32_t> token_ids = random_tokens(130, vocab_size, 7);
  const std::vector<float> actual = run_chunked(*loaded.model, token_ids, 48);
  const std::vector<float> fp32 =
      ReferenceModel(loaded.checkpoint, ExpertPrecision::kInt4).run(token_ids).logits;
  const std::vector<float> bf16 =
      ReferenceModel(loaded.checkpoint, ExpertPrecision::kInt4, ActivationPrecision::kBf16)
          .run(token_ids)
          .logits;
  const double error = quantile(row_errors(actual, fp32, vocab_size), 0.5);
  const double price_of_bf16 = quantile(row_errors(bf16, fp32, vocab_size), 0.5);
  INFO(name << ": median " << error << ", rounding alone " << price_of_bf16);
  CHECK(error <= 1.5 * price_of_bf16);
}

TEST_CASE("the demo says the same with its experts on the device, all or some of them",
          "[offload]") {
  LoadedModel plain(demo_dir(), 2);
  LoadedModel all(demo_dir(), 2, {.gpu_expert_layers = num_moe_layers(demo_dir())});
  LoadedModel some(demo_dir(), 2, {.devices = {{}, {}}, .gpu_expert_layers = 1});
  CHECK(all.model->description().find("routed experts' memory") == std::string::npos);
  for (const std::vector<int32_t>& prompt : demo_prompts()) {
    const std::vector<int32_t> expected = continue_greedily(*plain.model, prompt, 48);
    CHECK(continue_greedily(*all.model, prompt, 48) == expected);
    CHECK(continue_greedily(*some.model, prompt, 48) == expected);
  }
}

TEST_CASE("experts go to the device and to the host on a machine of several nodes", "[offload]") {
  const std::string dir = golden_dir("k2_thinking");
  const Checkpoint checkpoint = Checkpoint::open(dir);
  WorkerPool pool(Topology::detect(), {.num_threads = 2, .pin = false, .simulated_nodes = 2});
  const auto load = [&](int32_t device_layers) {
    return offload::KimiK2::load(checkpoint, pool,
                                 {.kv_cache_tokens = 1536,
                                  .max_batch_tokens = 64,
                                  .max_context_tokens = 512,
                                  .gpu_expert_layers = device_layers},
                                 {});
  };
  REQUIRE(checkpoint.config().num_moe_layers() > 1);
  const std::vector<int32_t> prompt = random_tokens(20, checkpoint.config().vocab_size, 31);
  const auto with_some = load(1);
  const auto without = load(0);
  CHECK(continue_greedily(*with_some, prompt, 8) == continue_greedily(*without, prompt, 8));
}

TEST_CASE("logits are the same bits for every cutting of the prompt", "[offload]") {
  const ForcedIsa isa(GENERATE(from_range(batch_independent_isas())));
  const std::string name = GENERATE(from_range(golden_names()));
  const int32_t device_layers = GENERATE_COPY(0, num_moe_layers(golden_dir(name)));
  LoadedModel loaded(golden_dir(name), 2, {.gpu_expert_layers = device_layers});
  const std::vector<int32_t> token_ids = random_tokens(150, loaded.model->vocab_size(), 11);
  const std::vector<float> whole = run_chunked(*loaded.model, token_ids, 150);
  for (const int32_t chunk_tokens : {1, 7, 64, 100}) {
    INFO(name << ", chunks of " << chunk_tokens);
    CHECK(run_chunked(*loaded.model, token_ids, chunk_tokens) == whole);
  }
}

TEST_CASE("logits are the same bits for every number of threads", "[offload]") {
  const std::string name = GENERATE(from_range(golden_names()));
  LoadedModel one(golden_dir(name), 1);
  const std::vector<int32_t> token_ids = random_tokens(90, one.model->vocab_size(), 13);
  const std::vector<float> expected = run_chunked(*one.model, token_ids, 33);
  for (const int num_threads : {2, 3}) {
    LoadedModel several(golden_dir(name), num_threads);
    INFO(name << ", " << num_threads << " threads");
    CHECK(run_chunked(*several.model, token_ids, 33) == expected);
  }
}

TEST_CASE("a sequence's logits are the same bits alone and beside others", "[offload]") {
  const ForcedIsa isa(GENERATE(from_range(batch_independent_isas())));
  LoadedModel loaded(golden_dir("k2_thinking"), 2);
  const int32_t vocab_size = loaded.model->vocab_size();
  std::vector<SequenceState> sequences(3);
  for (int32_t idx = 0; idx < 3; ++idx) {
    sequences[idx].token_ids = random_tokens(80 + 20 * idx, vocab_size, 17 + idx);
    sequences[idx].page_ids = {idx, 9 - idx, 12 + idx};
  }
  // A prefill in chunks beside a running decode, a late joiner, then three decodes together.
  const std::vector<std::vector<int32_t>> steps = {{60, 0, 0}, {1, 50, 0}, {1, 30, 64},
                                                   {1, 1, 40}, {1, 1, 1},  {16, 18, 15}};
  for (const auto& num_new : steps) run_step(*loaded.model, sequences, num_new);
  for (const SequenceState& sequence : sequences) {
    REQUIRE(sequence.done_tokens == static_cast<int32_t>(sequence.token_ids.size()));
    CHECK(run_chunked(*loaded.model, sequence.token_ids, 31) == sequence.logits);
  }
}

TEST_CASE("only the rows asked for are computed, and they are the same", "[offload]") {
  LoadedModel loaded(golden_dir("real_head"), 2);
  const int32_t vocab_size = loaded.model->vocab_size();
  const std::vector<int32_t> token_ids = random_tokens(70, vocab_size, 23);
  const std::vector<float> all = run_chunked(*loaded.model, token_ids, 70);
  const std::vector<int32_t> page_ids = {4, 2};
  const BatchItem item{
      .token_begin = 0, .num_tokens = 70, .context_size_tokens = 0, .page_ids = page_ids};
  const std::vector<int32_t> rows = {0, 41, 69};
  std::vector<float> logits(rows.size() * static_cast<size_t>(vocab_size));
  loaded.model->forward({.token_ids = token_ids, .items = {&item, 1}, .logit_token_idx = rows},
                        MatrixView<float>(logits.data(), 3, vocab_size));
  for (size_t row_idx = 0; row_idx < rows.size(); ++row_idx) {
    const auto expected = all.begin() + int64_t{rows[row_idx]} * vocab_size;
    CHECK(std::equal(expected, expected + vocab_size,
                     logits.begin() + static_cast<int64_t>(row_idx) * vocab_size));
  }
  loaded.model->forward({.token_ids = token_ids, .items = {&item, 1}, .logit_token_idx = {}}, {});
}

TEST_CASE("bytes of a decode step count every weight once and the KV of every sequence",
          "[offload]") {
  LoadedModel loaded(golden_dir("k2_thinking"), 1);
  const ModelConfig& config = loaded.checkpoint.config();
  const auto read_bytes = [](const ForwardModel& model, int32_t num_sequences, int32_t context) {
    const DecodeReads reads = model.decode_reads(num_sequences, context);
    CHECK(reads.card_bytes == 0);
    return reads.host_bytes;
  };
  const int64_t one = read_bytes(*loaded.model, 1, 0);
  const int64_t kv_token_bytes = int64_t{config.num_hidden_layers} * config.kv_dim() * 2;
  CHECK(read_bytes(*loaded.model, 1, 100) - one == 100 * kv_token_bytes);
  CHECK(one > int64_t{config.vocab_size} * config.hidden_size * 2);
  CHECK(read_bytes(*loaded.model, 64, 0) > one);
  CHECK(read_bytes(*loaded.model, 64, 0) <
        loaded.checkpoint.dense_size_bytes() + loaded.checkpoint.resident_expert_size_bytes());
  CHECK(loaded.model->measure_card_gb_per_s() == 0.0);
}

TEST_CASE("bytes of a decode step are told by the memory that they lie in", "[offload]") {
  const std::string dir = golden_dir("k2_thinking");
  const int64_t all_bytes = LoadedModel(dir, 1).model->decode_reads(2, 70).host_bytes;
  const int32_t num_layers = num_moe_layers(dir);
  std::vector<DecodeReads> reads;
  for (const int32_t expert_layers : {0, 1, num_layers}) {
    offload::KimiK2Options options;
    options.gpu_expert_layers = expert_layers;
    options.make_ops = [](const gpu::LogicalDevice&, WorkerPool& pool) {
      return std::make_unique<RecordingOps>(pool);
    };
    LoadedModel loaded(dir, 1, options);
    reads.push_back(loaded.model->decode_reads(2, 70));
    CHECK(reads.back().total_bytes() == all_bytes);
    CHECK(loaded.model->measure_card_gb_per_s() > 0.0);
  }
  const int64_t layer_bytes = reads[0].host_bytes / num_layers;
  CHECK(layer_bytes > 0);
  CHECK(reads[1].host_bytes == reads[0].host_bytes - layer_bytes);
  CHECK(reads[2].host_bytes == 0);
  CHECK(reads[0].card_bytes > 0);
  // 3 GB/s and 2 GB/s: one after the other.
  CHECK(DecodeReads{.host_bytes = 3'000'000'000, .card_bytes = 4'000'000'000}.seconds_at(
            3.0, 2.0) == 3.0);
  CHECK(DecodeReads{.host_bytes = 3'000'000'000}.seconds_at(3.0, 0.0) == 1.0);
}

}  // namespace
}  // namespace tandem::tests
