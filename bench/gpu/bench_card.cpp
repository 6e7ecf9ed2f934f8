#include "bench/gpu/bench_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "bench/support/timing.h"
#include "gpu/cuda/event.h"
#include "gpu/cuda/graph.h"
#include "gpu/cuda/kernels/int4_experts.h"
#include "gpu/cuda/kernels/skinny_linear.h"
#include "gpu/cuda/stream.h"
#include "runtime/model/expert_layout.h"

namespace tandem::bench {
namespace {

using gpu::cuda::Event;
using gpu::cuda::ExpertPath;

// On the card at once: more than the 8 of a token, so that no cache holds what the next run reads.
constexpr int32_t kMaxResidentExperts = 64;
// Both a code and, twice, a BF16 scale of 0.0115.
constexpr std::byte kPackedByte{0x3c};

int64_t expert_size_bytes(const ModelConfig& config) {
  return expert_layout::expert_size_bytes(config.hidden_size, config.moe_intermediate_size);
}

template <typename T>
MatrixView<const T> upload(DeviceBench& bench,
                           const std::vector<T>& values,
                           int64_t cols,
                           std::vector<std::unique_ptr<gpu::DeviceBuffer>>& buffers) {
  buffers.push_back(bench.ops().upload(std::as_bytes(std::span<const T>(values))));
  return {reinterpret_cast<const T*>(buffers.back()->data()),
          static_cast<int64_t>(values.size()) / cols, cols};
}

// Choices of every token among the experts on the card; how many are met at all.
struct Routing {
  std::vector<int32_t> ids;
  int64_t num_distinct = 0;
};
Routing route(int64_t num_tokens, int64_t num_chosen, int32_t num_experts) {
  std::mt19937 random(17);
  Routing routing;
  std::set<int32_t> met;
  for (int64_t token = 0; token < num_tokens; ++token) {
    std::set<int32_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < num_chosen) {
      chosen.insert(static_cast<int32_t>(random() % static_cast<uint32_t>(num_experts)));
    }
    routing.ids.insert(routing.ids.end(), chosen.begin(), chosen.end());
    met.insert(chosen.begin(), chosen.end());
  }
  routing.num_distinct = static_cast<int64_t>(met.size());
  return routing;
}

// launch(call_idx, stream) as a decode step has it, in a recording: seconds of one of num_calls.
template <typename Launch>
Timing time_recorded(int64_t num_calls, const Launch& launch) {
  const gpu::cuda::Stream stream;
  const Event begin(Event::Timing::kOn);
  const Event end(Event::Timing::kOn);
  const auto launch_all = [&] {
    for (int64_t call = 0; call < num_calls; ++call) launch(call, stream.get());
  };
  launch_all();
  stream.synchronize();
  const auto graph = gpu::cuda::CapturedGraph::capture(stream, launch_all);
  std::vector<double> seconds;
  for (int run_idx = 0; run_idx < 23; ++run_idx) {
    begin.record(stream.get());
    graph.launch(stream);
    end.record(stream.get());
    end.synchronize();
    if (run_idx >= 3)
      seconds.push_back(1e-3 * end.elapsed_ms_since(begin) / static_cast<double>(num_calls));
  }
  return summarise(std::move(seconds));
}

// The products of absorbed MLA: W_UK^T makes latent queries of a head's q_nope, W_UV the head's
// output of what attention summed (equation 9).
struct HeadProduct {
  const char* what;
  int64_t out;
  int64_t in;
};

}  // namespace

void bench_head_products(DeviceBench& bench, Report& report) {
  const ModelConfig& config = bench.config();
  const int64_t heads = config.num_attention_heads;
  for (const HeadProduct& product :
       {HeadProduct{"W_UK a head", config.kv_lora_rank, config.qk_nope_head_dim},
        HeadProduct{"W_UV a head", config.v_head_dim, config.kv_lora_rank}}) {
    const int64_t weight_values = heads * product.out * product.in;
    const int64_t num_weights = bench.num_copies(2.0 * static_cast<double>(weight_values));
    const MatrixView<bf16> weights = bench.random_matrix(num_weights, weight_values);
    for (const int64_t num_rows : {1, 4, 16}) {
      const MatrixView<bf16> x = bench.random_matrix(num_rows, heads * product.in);
      const MatrixView<bf16> out = bench.matrix<bf16>(num_rows, heads * product.out);
      const Timing timing = time_recorded(4 * num_weights, [&](int64_t call, cudaStream_t stream) {
        gpu::cuda::launch_skinny_linear(
            {.x = {x.data, num_rows, product.in, x.row_stride},
             .weight = {weights.row(call % num_weights).data(), product.out, product.in},
             .output = gpu::cuda::LinearOutput::kBf16,
             .out_bf16 = {out.data, num_rows, product.out, out.row_stride},
             .num_heads = config.num_attention_heads,
             .x_head_stride = product.in,
             .weight_head_stride = product.out * product.in,
             .out_head_stride = product.out},
            gpu::cuda::LinearPath::kAuto, stream);
      });
      const double bytes =
          2.0 * static_cast<double>(weight_values + num_rows * heads * (product.in + product.out));
      report.add_row(
          kFewRows,
          join({{"product", std::string(product.what)},
                {"out x in", fmt::format("{}x{}", product.out, product.in)},
                {"rows", num_rows}},
               memory_fields(
                   {.median_s = timing.median_s, .p10_s = timing.p10_s, .p90_s = timing.p90_s},
                   bytes, bench.limits(), kFewRowsGoal)));
    }
    bench.release_matrices();
  }
}

void bench_experts(DeviceBench& bench, Report& report) {
  const ModelConfig& config = bench.config();
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.moe_intermediate_size;
  const int64_t num_chosen = config.num_experts_per_tok;
  const int32_t num_experts = std::min(config.n_routed_experts, kMaxResidentExperts);
  std::vector<std::unique_ptr<gpu::DeviceBuffer>> buffers;
  const std::vector<std::byte> packed(static_cast<size_t>(expert_size_bytes(config)), kPackedByte);
  std::vector<const std::byte*> addresses;
  for (int32_t idx = 0; idx < num_experts; ++idx) {
    addresses.push_back(upload(bench, packed, 1, buffers).data);
  }
  const auto* experts = upload(bench, addresses, 1, buffers).data;
  for (const int64_t num_tokens : {1, 4, 16, 64, 512, 2048}) {
    const ExpertPath path = num_tokens <= 64 ? ExpertPath::kFew : ExpertPath::kMany;
    const int64_t num_pairs = num_tokens * num_chosen;
    const Routing routing = route(num_tokens, num_chosen, num_experts);
    const std::vector<float> weights(static_cast<size_t>(num_pairs), 0.125f);
    const int64_t max_tiles = gpu::cuda::max_expert_tiles(num_pairs, num_experts, path);
    std::vector<std::unique_ptr<gpu::DeviceBuffer>> inputs;
    const gpu::cuda::Int4ExpertsParams params{
        .hidden = bench.random_matrix(static_cast<int32_t>(num_tokens), hidden),
        .expert_ids = upload(bench, routing.ids, num_chosen, inputs),
        .expert_weights = upload(bench, weights, num_chosen, inputs),
        .experts = experts,
        .n_routed_experts = num_experts,
        .moe_intermediate_size = static_cast<int32_t>(intermediate),
        .sorted_pairs = bench.matrix<int32_t>(1, num_pairs).data,
        .tiles = bench.matrix<gpu::cuda::ExpertTile>(1, max_tiles).data,
        .num_tiles = bench.matrix<int32_t>(1, 1).data,
        .activated = bench.matrix<bf16>(num_pairs, intermediate).data,
        .expert_out = bench.matrix<bf16>(num_pairs, hidden).data,
        .residual = bench.matrix<float>(num_tokens, hidden)};
    const Timing timing = time_recorded(4, [&](int64_t, cudaStream_t stream) {
      gpu::cuda::launch_int4_experts(params, path, stream);
    });
    const double gb_per_s = static_cast<double>(routing.num_distinct * expert_size_bytes(config)) /
                            timing.median_s * 1e-9;
    const double tflop_per_s =
        6.0 * static_cast<double>(num_pairs * hidden * intermediate) / timing.median_s * 1e-12;
    report.add_row(
        "INT4 experts",
        {{"tokens", num_tokens},
         {"experts met", routing.num_distinct},
         {"median us", Number{timing.median_s * 1e6, 1}},
         {"p10 us", Number{timing.p10_s * 1e6, 1}},
         {"p90 us", Number{timing.p90_s * 1e6, 1}},
         {"GB/s", Number{gb_per_s, 0}},
         {"of copy %", Number{100.0 * gb_per_s / bench.limits().copy_gb_per_s, 1}},
         {"TFLOP/s", Number{tflop_per_s, 1}},
         {"of matmul %", Number{100.0 * tflop_per_s / bench.limits().matmul_tflop_per_s, 1}}});
    bench.release_matrices();
  }
}

}  // namespace tandem::bench
