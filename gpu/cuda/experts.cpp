#include "gpu/cuda/experts.h"

#include <algorithm>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/model/expert_layout.h"

namespace tandem::gpu::cuda {
namespace {

constexpr int64_t kAlignmentBytes = 256;
// Pairs of a token and an expert at a time: bounds the memory, and the grid, which has no more than
// 65,535 tiles. Experts are then read once for thousands of tokens, which costs nothing.
constexpr int64_t kMaxPairs = int64_t{1} << 16;

int64_t rows_at_a_time(const OpsLimits& limits) {
  const int64_t num_ranks = std::max(limits.experts.num_experts_per_tok, 1);
  return std::min<int64_t>(limits.max_batch_tokens, std::max<int64_t>(kMaxPairs / num_ranks, 1));
}

// Tiles of 8 tokens read an expert once for every 8: from more than one tile an expert on, those of
// 64 read less.
ExpertPath path_of(int64_t num_pairs, const ExpertsShape& shape) {
  return num_pairs <= int64_t{tokens_a_tile(ExpertPath::kFew)} * shape.n_routed_experts
             ? ExpertPath::kFew
             : ExpertPath::kMany;
}

}  // namespace

CudaExperts::CudaExperts(const ExpertsShape& shape,
                         Ops::PackedExpert packed_expert,
                         StagedUpload& uploader)
    : shape_(shape) {
  TANDEM_CHECK(shape.n_routed_experts <= kMaxDeviceExperts, "load_experts: too many experts");
  const int64_t size_bytes =
      expert_layout::expert_size_bytes(shape.hidden_size, shape.moe_intermediate_size);
  weights_ = DeviceMemory(static_cast<size_t>(shape.n_routed_experts * size_bytes));
  std::vector<const std::byte*> addresses;
  for (int32_t idx = 0; idx < shape.n_routed_experts; ++idx) {
    const std::span<const std::byte> packed = packed_expert(idx);
    TANDEM_CHECK(static_cast<int64_t>(packed.size()) == size_bytes,
                 "load_experts: size of an expert");
    std::byte* target = weights_.as<std::byte>() + idx * size_bytes;
    uploader.upload(packed, target);
    addresses.push_back(target);
  }
  const auto address_bytes = std::as_bytes(std::span<const std::byte* const>(addresses));
  addresses_ = DeviceMemory(address_bytes.size());
  uploader.upload(address_bytes, addresses_.as<std::byte>());
  uploader.finish();
}

// Laid out by one walk that also counts, so that plan and memory cannot differ.
struct ExpertProducts::Buffers {
  int32_t* sorted_pairs = nullptr;
  ExpertTile* tiles = nullptr;
  int32_t* num_tiles = nullptr;
  bf16* activated = nullptr;
  bf16* expert_out = nullptr;

  int64_t lay_out(const ExpertsShape& shape, int64_t num_rows, std::byte* base) {
    int64_t offset_bytes = 0;
    const auto take = [&]<typename T>(T*& pointer, int64_t num_values) {
      pointer = base == nullptr ? nullptr : reinterpret_cast<T*>(base + offset_bytes);
      const int64_t size_bytes = num_values * int64_t{sizeof(T)};
      offset_bytes += (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
    };
    const int64_t num_pairs = num_rows * shape.num_experts_per_tok;
    take(sorted_pairs, num_pairs);
    take(tiles, max_expert_tiles(num_pairs, shape.n_routed_experts, ExpertPath::kFew));
    take(num_tiles, 1);
    take(activated, num_pairs * shape.moe_intermediate_size);
    take(expert_out, num_pairs * shape.hidden_size);
    return offset_bytes;
  }
};

int64_t ExpertProducts::planned_size_bytes(const OpsLimits& limits) {
  if (limits.experts.n_routed_experts == 0) return 0;
  return Buffers().lay_out(limits.experts, rows_at_a_time(limits), nullptr);
}

ExpertProducts::ExpertProducts(const OpsLimits& limits)
    : shape_(limits.experts),
      max_rows_(rows_at_a_time(limits)),
      memory_(static_cast<size_t>(planned_size_bytes(limits))) {}

void ExpertProducts::run(const Args& args, cudaStream_t stream) const {
  const ExpertsShape& shape = args.experts.shape();
  TANDEM_CHECK(shape.hidden_size <= shape_.hidden_size &&
                   shape.moe_intermediate_size <= shape_.moe_intermediate_size &&
                   shape.n_routed_experts <= shape_.n_routed_experts &&
                   shape.num_experts_per_tok <= shape_.num_experts_per_tok,
               "add_routed_experts: more than reserve() was told");
  Buffers buffers;
  buffers.lay_out(shape_, max_rows_, memory_.as<std::byte>());
  for (int64_t begin = 0; begin < args.hidden.rows; begin += max_rows_) {
    const int64_t num_rows = std::min(max_rows_, args.hidden.rows - begin);
    launch_int4_experts({.hidden = args.hidden.rows_from(begin, num_rows),
                         .expert_ids = args.expert_ids.rows_from(begin, num_rows),
                         .expert_weights = args.expert_weights.rows_from(begin, num_rows),
                         .kv_slots = args.kv_slots + begin,
                         .experts = args.experts.experts(),
                         .n_routed_experts = shape.n_routed_experts,
                         .moe_intermediate_size = shape.moe_intermediate_size,
                         .sorted_pairs = buffers.sorted_pairs,
                         .tiles = buffers.tiles,
                         .num_tiles = buffers.num_tiles,
                         .activated = buffers.activated,
                         .expert_out = buffers.expert_out,
                         .residual = args.residual.rows_from(begin, num_rows)},
                        path_of(num_rows * shape.num_experts_per_tok, shape), stream);
  }
}

}  // namespace tandem::gpu::cuda
