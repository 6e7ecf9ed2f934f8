// Whole models on a card, judged by the reference and by the host; skipped where no card is.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "offload/placement.h"
#include "runtime/reference/reference_model.h"
#include "tests/offload/model_fixture.h"
#include "tests/offload/row_error.h"

namespace tandem::tests {
namespace {

const std::vector<gpu::LogicalDevice> kOneCard = {{.card_idx = 0}};
const std::vector<gpu::LogicalDevice> kTwoOnOneCard = {{.card_idx = 0}, {.card_idx = 0}};

// First line of every [gpu] test.
void require_card() {
  const gpu::CudaSupport support = gpu::detect_cuda();
  if (support.devices.empty()) SKIP("needs an NVIDIA card: " << support.problem);
}

std::vector<float> reference_logits(const LoadedModel& loaded,
                                    const std::vector<int32_t>& token_ids,
                                    ActivationPrecision precision) {
  return ReferenceModel(loaded.checkpoint, ExpertPrecision::kInt4, precision).run(token_ids).logits;
}

// The bounds of test_kimi_k2.cpp, with room for what a card rounds besides the host: latent
// queries, softmax weights and sums of latents, where the reference in BF16 rounds nothing.
void check_against_reference(const std::string& dir,
                             gpu::MlaForm form,
                             int32_t chunk_tokens,
                             int32_t gpu_expert_layers) {
  LoadedModel loaded(
      dir, 2, {.mla_form = form, .devices = kOneCard, .gpu_expert_layers = gpu_expert_layers});
  const int32_t vocab_size = loaded.model->vocab_size();
  const std::vector<int32_t> token_ids = random_tokens(130, vocab_size, 7);
  const std::vector<float> actual = run_chunked(*loaded.model, token_ids, chunk_tokens);
  const std::vector<float> fp32 = reference_logits(loaded, token_ids, ActivationPrecision::kFp32);
  const std::vector<double> from_fp32 = row_errors(actual, fp32, vocab_size);
  const std::vector<double> price_of_bf16 =
      row_errors(reference_logits(loaded, token_ids, ActivationPrecision::kBf16), fp32, vocab_size);
  INFO("from FP32 median " << quantile(from_fp32, 0.5) << ", worst " << quantile(from_fp32, 1.0)
                           << "; rounding alone " << quantile(price_of_bf16, 0.5) << ", "
                           << quantile(price_of_bf16, 1.0));
  CHECK(quantile(from_fp32, 0.5) <= 2.0 * quantile(price_of_bf16, 0.5));
  CHECK(quantile(from_fp32, 1.0) <= 3.0 * quantile(price_of_bf16, 1.0));
}

}  // namespace

TEST_CASE("on a card logits of the goldens differ from the reference by rounding to BF16",
          "[gpu][model][wide]") {
  require_card();
  const std::string name = GENERATE(from_range(golden_names()));
  const gpu::MlaForm form = GENERATE(gpu::MlaForm::kAbsorbed, gpu::MlaForm::kExpanded);
  const int32_t chunk_tokens = GENERATE(1, 48, 130);
  const AllExpertsCopy copy(name);
  const bool experts_on_card = GENERATE(false, true);
  const int32_t gpu_expert_layers = experts_on_card ? num_moe_layers(copy.dir()) : 0;
  INFO(name << ", chunks of " << chunk_tokens << ", experts of " << gpu_expert_layers
            << " layers on the card");
  check_against_reference(copy.dir(), form, chunk_tokens, gpu_expert_layers);
}

TEST_CASE("on a card the demo says what it says on the host, its experts there or not",
          "[gpu][model]") {
  require_card();
  const bool experts_on_card = GENERATE(false, true);
  LoadedModel host(demo_dir(), 2);
  LoadedModel card(
      demo_dir(), 2,
      {.devices = kOneCard, .gpu_expert_layers = experts_on_card ? num_moe_layers(demo_dir()) : 0});
  for (const std::vector<int32_t>& prompt : demo_prompts()) {
    CHECK(continue_greedily(*card.model, prompt, 48) == continue_greedily(*host.model, prompt, 48));
  }
}

// Products of more than 16 rows are cuBLASLt's, whose algorithms each device times for itself: two
// may choose different ones.
TEST_CASE("two logical devices on one card compute what one does, products of ours to the bit",
          "[gpu][model][wide]") {
  require_card();
  const std::string name = GENERATE(from_range(golden_names()));
  INFO(name);
  const AllExpertsCopy copy(name);
  LoadedModel one(copy.dir(), 2, {.devices = kOneCard});
  LoadedModel two(copy.dir(), 2, {.devices = kTwoOnOneCard});
  const int32_t vocab_size = one.model->vocab_size();
  const std::vector<int32_t> token_ids = random_tokens(150, vocab_size, 11);
  for (const int32_t chunk_tokens : {1, 16}) {
    INFO("chunks of " << chunk_tokens);
    CHECK(run_chunked(*two.model, token_ids, chunk_tokens) ==
          run_chunked(*one.model, token_ids, chunk_tokens));
  }
  const std::vector<double> price_of_bf16 =
      row_errors(reference_logits(one, token_ids, ActivationPrecision::kBf16),
                 reference_logits(one, token_ids, ActivationPrecision::kFp32), vocab_size);
  for (const int32_t chunk_tokens : {37, 150}) {
    INFO("chunks of " << chunk_tokens);
    const std::vector<double> errors =
        row_errors(run_chunked(*two.model, token_ids, chunk_tokens),
                   run_chunked(*one.model, token_ids, chunk_tokens), vocab_size);
    CHECK(quantile(errors, 0.5) <= 2.0 * quantile(price_of_bf16, 0.5));
    CHECK(quantile(errors, 1.0) <= 3.0 * quantile(price_of_bf16, 1.0));
  }
}

TEST_CASE("a model takes no more of a card than was planned and left as a reserve",
          "[gpu][model]") {
  require_card();
  const std::string dir = golden_dir("real_head");
  const Checkpoint checkpoint = Checkpoint::open(dir);
  const int32_t gpu_expert_layers = GENERATE_COPY(0, num_moe_layers(dir));
  int64_t free_before = 0;
  LoadedModel loaded(
      dir, 2,
      {.devices = kOneCard,
       .gpu_expert_layers = gpu_expert_layers,
       .on_plan = [&](const std::string&) { free_before = gpu::free_card_size_bytes(0); }});
  const std::vector<int32_t> token_ids = random_tokens(100, loaded.model->vocab_size(), 13);
  run_chunked(*loaded.model, token_ids, 1);
  run_chunked(*loaded.model, token_ids, 100);
  const offload::Placement placement = offload::plan_placement(
      checkpoint,
      {.kv_cache_tokens = 1536,
       .max_context_tokens = 512,
       .max_batch_tokens = 320,
       .max_logit_rows = 320,
       .devices = kOneCard,
       .device_expert_layers = gpu_expert_layers},
      {.host_size_bytes = int64_t{1} << 40, .card_size_bytes = {free_before}});
  const int64_t planned_size_bytes = placement.size_bytes_in(kOneCard.front());
  const int64_t taken_size_bytes = free_before - gpu::free_card_size_bytes(0);
  INFO(planned_size_bytes << " bytes planned, " << taken_size_bytes << " taken");
  CHECK(taken_size_bytes <= planned_size_bytes + (int64_t{1} << 29));
}

TEST_CASE("on a card steps with the same batch compute the same bits, recorded or not",
          "[gpu][model][wide]") {
  require_card();
  LoadedModel loaded(golden_dir("real_head"), 2, {.devices = kOneCard});
  const std::vector<int32_t> token_ids = random_tokens(100, loaded.model->vocab_size(), 13);
  // The first run of single tokens records its steps, the second replays them from the start.
  const std::vector<float> first = run_chunked(*loaded.model, token_ids, 1);
  CHECK(run_chunked(*loaded.model, token_ids, 1) == first);
}

// 16 GiB of weights: made on the machine that has the card, not carried there.
TEST_CASE("on a card a model of K2's full width computes what the host does",
          "[gpu][model][slow]") {
  require_card();
  const char* dir = std::getenv("TANDEM_FULL_WIDTH_MODEL");
  if (dir == nullptr) {
    SKIP("needs TANDEM_FULL_WIDTH_MODEL, a folder that tandem make-checkpoint has filled");
  }
  LoadedModel card(dir, 2, {.devices = kOneCard});
  const std::vector<int32_t> token_ids = random_tokens(70, card.model->vocab_size(), 7);
  const std::vector<float> on_card = run_chunked(*card.model, token_ids, 33);
  const std::vector<int32_t> card_tokens = continue_greedily(*card.model, token_ids, 8);
  LoadedModel host(dir, 2);
  const std::vector<float> on_host = run_chunked(*host.model, token_ids, 33);
  // Routing of random weights has near ties, after which a row differs by an expert.
  CHECK(quantile(row_errors(on_card, on_host, host.model->vocab_size()), 0.5) <= 0.05);
  CHECK(card_tokens == continue_greedily(*host.model, token_ids, 8));
}

}  // namespace tandem::tests
