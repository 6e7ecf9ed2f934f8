// Whole models on an emulated card: CudaOps, its memory, streams and recorded steps, and every
// hand-written kernel of a layer, against the reference.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <numeric>
#include <span>

#include "runtime/base/errors.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "runtime/reference/reference_model.h"
#include "runtime/sampling/sampler.h"
#include "tests/gpu/card/emulated_card.h"
#include "tests/offload/model_fixture.h"
#include "tests/offload/row_error.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem::tests {
namespace {

using Catch::Matchers::MessageMatches;
using Catch::Matchers::StartsWith;

// A step of the sequences' next tokens, with the logits of the last `num_logit_rows` of them at
// most, which go nowhere.
void run_rows(ForwardModel& model,
              std::span<SequenceState> sequences,
              std::span<const int32_t> num_new,
              int32_t num_logit_rows) {
  const auto [token_ids, items] = take_next(sequences, num_new);
  std::vector<int32_t> rows(token_ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  const size_t num_rows = std::min(rows.size(), static_cast<size_t>(num_logit_rows));
  std::vector<float> logits(num_rows * static_cast<size_t>(model.vocab_size()));
  model.forward({.token_ids = token_ids,
                 .items = items,
                 .logit_token_idx = std::span<const int32_t>(rows).last(num_rows)},
                {logits.data(), static_cast<int64_t>(num_rows), model.vocab_size()});
}

offload::KimiK2Options on_cards(const std::vector<int32_t>& card_idxs) {
  offload::KimiK2Options options;
  options.devices.clear();
  for (const int32_t card_idx : card_idxs) options.devices.push_back({.card_idx = card_idx});
  return options;
}

// Every token goes to every expert, so that logits are a smooth function of the activations, and
// the typical row is judged: within 1.5 times what rounding activations to BF16 changes.
void check_rows(const LoadedModel& loaded, const SequenceState& sequence) {
  const std::vector<int32_t> token_ids(sequence.token_ids.begin(),
                                       sequence.token_ids.begin() + sequence.done_tokens);
  const auto reference = [&](ActivationPrecision precision) {
    return ReferenceModel(loaded.checkpoint, ExpertPrecision::kInt4, precision)
        .run(token_ids)
        .logits;
  };
  const std::vector<float> fp32 = reference(ActivationPrecision::kFp32);
  const std::vector<float> bf16 = reference(ActivationPrecision::kBf16);
  const int32_t vocab_size = loaded.model->vocab_size();
  const double price_of_bf16 = quantile(row_errors(bf16, fp32, vocab_size), 0.5);
  CHECK(quantile(row_errors(sequence.logits, fp32, vocab_size), 0.5) <= 1.5 * price_of_bf16);
}

TEST_CASE("on an emulated card prefills and recorded decodes differ from the reference by rounding",
          "[cuda_card]") {
  // real_head has the heads that FlashInfer serves.
  const std::string name = GENERATE("k2_thinking", "moonlight", "k2_5_nested", "grouped_router");
  const std::vector<int32_t> cards = GENERATE(std::vector<int32_t>{0}, std::vector<int32_t>{0, 1});
  const AllExpertsCopy copy(name);
  offload::KimiK2Options options = on_cards(cards);
  // None, one, or all.
  const int32_t most_expert_layers = GENERATE(0, 1, 1000);
  options.gpu_expert_layers = std::min(most_expert_layers, num_moe_layers(copy.dir()));
  LoadedModel loaded(copy.dir(), 2, options);
  std::vector<SequenceState> sequences(3);
  for (int32_t idx = 0; idx < 3; ++idx) {
    SequenceState& sequence = sequences[static_cast<size_t>(idx)];
    sequence.token_ids =
        random_tokens(10 + 30 * idx, loaded.model->vocab_size(), static_cast<uint64_t>(30 + idx));
    sequence.page_ids = {7 - 3 * idx, 10 + 3 * idx};
  }
  const int64_t num_launches_before = gpu::emulated_card::num_graph_launches();
  run_step(*loaded.model, sequences, std::vector<int32_t>{5, 35, 65});
  for (int step = 0; step < 5; ++step)
    run_step(*loaded.model, sequences, std::vector<int32_t>{1, 1, 1});
  CHECK(gpu::emulated_card::num_graph_launches() > num_launches_before);
  for (const SequenceState& sequence : sequences) check_rows(loaded, sequence);
}

// Of a layer whose experts are the CPU's: norm, q_a|kv_a, norm, q_b, rope and append, W_UK,
// attention (two kernels at these widths), W_UV, o_proj; norm, router, choice (to the host, with
// the rows), gate|up, down. What it lacks, the next norm adds, or one kernel behind the last layer.
// Experts on the card are four kernels more.
TEST_CASE("what a recorded step replays is counted, kernels and recordings", "[cuda_card]") {
  const std::string dir = golden_dir("k2_thinking");
  const int32_t all_layers = num_moe_layers(dir);
  const auto launches_with = [&](int32_t gpu_expert_layers) {
    offload::KimiK2Options options = on_cards({0});
    options.gpu_expert_layers = gpu_expert_layers;
    LoadedModel loaded(dir, 2, options);
    SequenceState sequence{.token_ids = random_tokens(8, loaded.model->vocab_size(), 3),
                           .page_ids = {2},
                           .logits = {}};
    const int32_t one = 1;
    run_step(*loaded.model, {&sequence, 1}, {&one, 1});
    CHECK(loaded.model->replayed_launches() == DeviceLaunches{});  // the first runs as it is
    DeviceLaunches launches;
    for (int step = 0; step < 3; ++step) {
      const int64_t num_before = gpu::emulated_card::num_graph_launches();
      run_step(*loaded.model, {&sequence, 1}, {&one, 1});
      launches = loaded.model->replayed_launches();
      CHECK(launches.num_recordings == gpu::emulated_card::num_graph_launches() - num_before);
    }
    return launches;
  };
  const DeviceLaunches on_host = launches_with(0);
  const DeviceLaunches on_card = launches_with(all_layers);
  CHECK(on_card.num_recordings == 1);
  CHECK(on_host.num_recordings == 1 + 2 * all_layers);
  // Embedding; the dense layers lack router and choice; the logits' rows, their norm and lm_head.
  // Their copy to the host is behind it.
  const int32_t num_layers = Checkpoint::open(dir).config().num_hidden_layers;
  const int64_t all_but_experts = 1 + 15 * num_layers - 2 * (num_layers - all_layers) + 3;
  CHECK(on_host.num_kernels == all_but_experts + 1);
  CHECK(on_card.num_kernels == all_but_experts + 4 * all_layers);
}

TEST_CASE("products choose their algorithms while the model is loaded, not under a request",
          "[cuda_card]") {
  // real_head has both forms of attention.
  const std::string name = GENERATE("k2_thinking", "real_head");
  const Checkpoint checkpoint = Checkpoint::open(golden_dir(name));
  WorkerPool pool(Topology::detect(), {.num_threads = 2, .pin = false});
  offload::KimiK2Options options = on_cards({0});
  options.kv_cache_tokens = 4096;
  options.max_batch_tokens = 150;
  options.max_logit_rows = 64;
  options.max_context_tokens = 320;
  const auto model = offload::KimiK2::load(checkpoint, pool, options, {});
  const int64_t num_chosen = gpu::emulated_card::num_algorithm_choices();
  std::vector<SequenceState> sequences(40);
  for (int32_t idx = 0; idx < 40; ++idx) {
    SequenceState& sequence = sequences[static_cast<size_t>(idx)];
    sequence.token_ids = random_tokens(320, model->vocab_size(), static_cast<uint64_t>(idx));
    for (int32_t page = 0; page < (idx < 2 ? 5 : 1); ++page)
      sequence.page_ids.push_back(idx < 2 ? 40 + 5 * idx + page : idx);
  }
  const auto step = [&](std::vector<int32_t> num_new) {
    num_new.resize(40, 0);
    run_rows(*model, sequences, num_new, 64);
  };
  step({150});
  step({110, 40});  // expanded and absorbed, where there are both
  step({1, 95});
  step(std::vector<int32_t>(40, 1));
  step({50, 17});
  CHECK(gpu::emulated_card::num_algorithm_choices() == num_chosen);
}

TEST_CASE("a model on the second card leaves the first alone", "[cuda_card]") {
  const std::string dir = golden_dir("k2_thinking");
  const int64_t num_before = gpu::emulated_card::num_uses(0);
  const int64_t num_before_on_second = gpu::emulated_card::num_uses(1);
  {
    LoadedModel loaded(dir, 2, on_cards({1}));
    SequenceState sequence{.token_ids = {3, 4, 5}, .page_ids = {2}, .logits = {}};
    for (int step = 0; step < 3; ++step) {
      const int32_t one = 1;
      run_step(*loaded.model, {&sequence, 1}, {&one, 1});
    }
    loaded.model->release_memory(kAllModelMemory);
    loaded.model->restore_memory(kAllModelMemory, {});
  }
  CHECK(gpu::emulated_card::num_uses(0) == num_before);
  CHECK(gpu::emulated_card::num_uses(1) > num_before_on_second);
}

TEST_CASE("a model that the kernels of a card are not for is refused before it is loaded",
          "[cuda_card]") {
  ModelConfig config = tiny_k2_config();
  std::string expected;
  SECTION("kv_lora_rank") {
    config.kv_lora_rank = 520;
    expected = "kv_lora_rank is 520, on a GPU expected is at most 512; --gpus none";
  }
  SECTION("qk_rope_head_dim") {
    config.qk_rope_head_dim = 264;
    expected = "qk_rope_head_dim is 264, on a GPU expected is at most 256; --gpus none";
  }
  SECTION("num_experts_per_tok") {
    config.n_routed_experts = 40;
    config.num_experts_per_tok = 33;
    expected = "num_experts_per_tok is 33, on a GPU expected is at most 32; --gpus none";
  }
  SECTION("n_group") {
    config.n_routed_experts = 68;
    config.n_group = 34;
    config.topk_group = 4;
    expected = "n_group is 34, on a GPU expected is at most 32; --gpus none";
  }
  SECTION("shared memory") {
    config.num_attention_heads = 17;
    config.kv_lora_rank = 512;
    config.qk_rope_head_dim = 128;
    expected =
        "num_attention_heads is 17, kv_lora_rank 512 and qk_rope_head_dim 128: attention takes "
        "180480 bytes of a multiprocessor's shared memory, on this GPU expected is at most 166912; "
        "--gpus none";
  }
  const test::TempDir dir;
  write_synthetic_checkpoint(dir.path(), {.config = config, .tiktoken_model = {}}, {});
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  WorkerPool pool(Topology::detect(), {.num_threads = 2, .pin = false});
  offload::KimiK2Options options = on_cards({0});
  options.kv_cache_tokens = 64;
  options.max_context_tokens = 64;
  bool has_begun = false;
  CHECK_THROWS_MATCHES(
      offload::KimiK2::load(checkpoint, pool, options, [&](const Progress&) { has_begun = true; }),
      LoadError, MessageMatches(StartsWith(expected)));
  CHECK_FALSE(has_begun);
}

TEST_CASE("on an emulated card the model chooses the tokens that its logits give", "[cuda_card]") {
  const std::string dir = golden_dir("k2_thinking");
  LoadedModel loaded(dir, 2, on_cards({0}));
  REQUIRE(loaded.model->chooses_tokens());
  const int32_t vocab_size = loaded.model->vocab_size();
  SequenceState sequence{
      .token_ids = random_tokens(12, vocab_size, 5), .page_ids = {2}, .logits = {}};
  SamplerScratch scratch;
  for (uint64_t draw_idx = 0; draw_idx < 5; ++draw_idx) {
    const auto num_new = static_cast<int32_t>(sequence.token_ids.size()) - sequence.done_tokens;
    const int32_t last = num_new - 1;
    const BatchItem item{.token_begin = 0,
                         .num_tokens = num_new,
                         .context_size_tokens = sequence.done_tokens,
                         .page_ids = sequence.page_ids};
    const TokenChoice choice{
        .temperature = draw_idx % 2 == 0 ? 0.0f : 0.9f, .seed = 3, .draw_idx = draw_idx};
    int32_t chosen = -2;
    loaded.model->forward_and_choose(
        {.token_ids = std::span<const int32_t>(sequence.token_ids).last(num_new),
         .items = {&item, 1},
         .logit_token_idx = {&last, 1}},
        {&choice, 1}, {&chosen, 1});
    run_step(*loaded.model, {&sequence, 1}, {&num_new, 1});  // the same again, with its logits
    SamplingParams params;
    params.temperature = choice.temperature;
    Sampler sampler(params, choice.seed, {}, draw_idx);
    const std::span<const float> row =
        std::span<const float>(sequence.logits).last(static_cast<size_t>(vocab_size));
    CHECK(chosen == sampler.choose({.logits = row}, scratch)->token_id);
    sequence.token_ids.push_back(chosen);
  }
}

}  // namespace
}  // namespace tandem::tests
