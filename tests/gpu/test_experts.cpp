// Routed experts on the host as a device.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "gpu/host/experts.h"
#include "tests/gpu/int4_expert.h"

namespace tandem::gpu::testing {
namespace {

// The layer's residual with its experts added, by a device of so many threads, tokens from..to.
TestMatrix<float> add_experts(const Int4Layer& layer,
                              int num_threads,
                              int64_t begin,
                              int64_t num_tokens) {
  WorkerPool pool = make_pool(num_threads);
  const std::unique_ptr<Ops> ops = make_host_ops(pool);
  ops->reserve({.max_batch_tokens = static_cast<int32_t>(num_tokens), .experts = layer.shape},
               {.num_attention_heads = 1,
                .qk_nope_head_dim = 8,
                .qk_rope_head_dim = 8,
                .v_head_dim = 8,
                .kv_lora_rank = 8});
  const std::unique_ptr<ExpertsWeight> weights = layer.load(*ops);
  TestMatrix<float> result = layer.residual;
  ops->add_routed_experts(layer.hidden.view().rows_from(begin, num_tokens), *weights,
                          layer.id_view().rows_from(begin, num_tokens),
                          layer.weight_view().rows_from(begin, num_tokens),
                          result.view().rows_from(begin, num_tokens));
  return result;
}

TEST_CASE("routed experts on the host equal their equations", "[gpu][host]") {
  struct Shape {
    int32_t hidden, intermediate, experts, k;
    int64_t num_tokens;
  };
  const Shape shape = GENERATE(Shape{32, 32, 1, 1, 1}, Shape{96, 64, 5, 2, 3},
                               Shape{64, 160, 9, 4, 20}, Shape{288, 96, 9, 4, 65});
  const Int4Layer layer({.hidden_size = shape.hidden,
                         .moe_intermediate_size = shape.intermediate,
                         .n_routed_experts = shape.experts,
                         .num_experts_per_tok = shape.k},
                        shape.num_tokens, 21);
  const TestMatrix<float> result = add_experts(layer, 2, 0, shape.num_tokens);
  for (int64_t token = 0; token < shape.num_tokens; ++token) {
    // Two roundings to BF16, of the activation and of an expert's output; FP32 is far below.
    CHECK(layer.relative_error(token, result.view().row(token)) <= 2 * kBf16UnitRoundoff);
  }
  CHECK(result.padding_is_untouched());
}

TEST_CASE("a token's routed experts have the same bits for any batch and threads", "[gpu][host]") {
  const Int4Layer layer({.hidden_size = 96,
                         .moe_intermediate_size = 64,
                         .n_routed_experts = 7,
                         .num_experts_per_tok = 3},
                        21, 22);
  const TestMatrix<float> together = add_experts(layer, 1, 0, 21);
  const TestMatrix<float> threads = add_experts(layer, 3, 0, 21);
  for (int64_t token = 0; token < 21; ++token) {
    CHECK(same_bits(threads.view().row(token), together.view().row(token)));
  }
  for (const int64_t token : {0, 7, 20}) {
    const TestMatrix<float> alone = add_experts(layer, 2, token, 1);
    CHECK(same_bits(alone.view().row(token), together.view().row(token)));
  }
}

}  // namespace
}  // namespace tandem::gpu::testing
