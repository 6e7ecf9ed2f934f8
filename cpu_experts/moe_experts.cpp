#include "cpu_experts/moe_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <vector>

#include "cpu_experts/dispatch.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/expert_weights.h"
#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/memory/numa_buffer.h"

namespace tandem::cpu_experts {
namespace {

// A share [begin, end) of `num_units` for one of `num_parts`.
struct Share {
  int64_t begin = 0, end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
};
Share share_of(int64_t num_units, int64_t part_idx, int64_t num_parts) {
  return {num_units * part_idx / num_parts, num_units * (part_idx + 1) / num_parts};
}

int64_t padded_cols(int64_t num_cols) { return num_col_blocks(num_cols) * kBlockCols; }

// One expert's tokens of a step: pairs [begin, end) of Step::pairs.
struct ExpertJob {
  int32_t expert_idx = 0;
  int32_t pair_begin = 0, pair_end = 0;
};

}  // namespace

struct MoeExperts::Impl {
  // What one NUMA node holds: a slice of moe_intermediate_size of every expert of every layer.
  struct Node {
    Share intermediate;  // columns of down, rows of gate and up; multiples of 32
    int64_t gate_up_size_bytes = 0;
    int64_t down_size_bytes = 0;
    NumaBuffer weights;  // [layer][expert]: gate and up row blocks in turn, then down
    NumaBuffer partial;  // [max_tokens, hidden_size] float: this node's sum; unused on one node
    [[nodiscard]] int64_t expert_size_bytes() const { return gate_up_size_bytes + down_size_bytes; }
  };

  MoeShape shape;
  WorkerPool& pool;
  CpuIsa isa = CpuIsa::kScalar;
  const ExpertKernels& kernels;
  std::vector<Node> nodes;

  // Work buffers of a step, taken once.
  int64_t element_size_bytes = 0;
  int64_t hidden_row_bytes = 0;     // of one token in `hidden`, padded
  int64_t activated_row_bytes = 0;  // of one pair in `activated`: every node's slice, each padded
  std::vector<int64_t> activated_offset_bytes;  // of a node's slice
  NumaBuffer hidden;                            // [max_tokens] rows in the kernels' element
  NumaBuffer activated;                         // [max_pairs] rows
  std::vector<ExpertJob> jobs;                  // experts with tokens, ascending
  std::vector<int32_t> expert_begin;            // counting sort, [n_routed_experts + 1]
  std::vector<int32_t> pair_token;              // token of every pair, sorted by expert
  std::vector<float> pair_weight;
  std::vector<const void*> pair_hidden;  // row in `hidden`
  std::vector<void*> pair_activated;     // row in `activated`
  struct WorkerScratch {                 // pointer lists of one job, max_tokens * top-k long
    std::vector<void*> activated;
    std::vector<const void*> input;
    std::vector<float*> out;
  };
  std::vector<WorkerScratch> scratch;

  Impl(const MoeShape& shape_in, WorkerPool& pool_in, CpuIsa isa_in)
      : shape(shape_in), pool(pool_in), isa(isa_in), kernels(kernels_of(isa_in)) {}
  void plan_nodes();
  void take_work_buffers();
  void sort_pairs(const RoutedTokens& tokens);
  void run_gate_up(int32_t moe_layer_idx, const WorkerPool::Worker& worker);
  void run_down(int32_t moe_layer_idx, const WorkerPool::Worker& worker, MatrixView<float> out);
  void add_partials(const WorkerPool::Worker& worker, MatrixView<float> out);
  void pack_expert(const Node& node,
                   int32_t moe_layer_idx,
                   int32_t expert_idx,
                   const ExpertTensors& tensors);
  [[nodiscard]] std::byte* expert_weights(const Node& node,
                                          int32_t moe_layer_idx,
                                          int32_t expert_idx) const {
    return node.weights.data() + (int64_t{moe_layer_idx} * shape.n_routed_experts + expert_idx) *
                                     node.expert_size_bytes();
  }
};

MoeExperts::MoeExperts(const MoeShape& shape, WorkerPool& pool)
    : impl_(std::make_unique<Impl>(shape, pool, active_isa())) {
  if (shape.hidden_size % kInt4GroupSize != 0 ||
      shape.moe_intermediate_size % kInt4GroupSize != 0) {
    throw ConfigError(fmt::format(
        "hidden_size is {} and moe_intermediate_size {}, expected multiples of {} for INT4 experts",
        shape.hidden_size, shape.moe_intermediate_size, kInt4GroupSize));
  }
  impl_->plan_nodes();
  impl_->take_work_buffers();
}

MoeExperts::~MoeExperts() = default;

void MoeExperts::Impl::plan_nodes() {
  // A slice is whole groups of 32: a scale never has two owners.
  const int64_t num_groups = shape.moe_intermediate_size / kInt4GroupSize;
  const int num_nodes = pool.num_nodes();
  int64_t offset_bytes = 0;
  for (int node_idx = 0; node_idx < num_nodes; ++node_idx) {
    Node node;
    const Share groups = share_of(num_groups, node_idx, num_nodes);
    node.intermediate = {groups.begin * kInt4GroupSize, groups.end * kInt4GroupSize};
    node.gate_up_size_bytes = 2 * packed_size_bytes(node.intermediate.size(), shape.hidden_size);
    node.down_size_bytes = packed_size_bytes(shape.hidden_size, node.intermediate.size());
    node.weights = NumaBuffer(
        int64_t{shape.num_moe_layers} * shape.n_routed_experts * node.expert_size_bytes(),
        pool.node_os_idx(node_idx));
    activated_offset_bytes.push_back(offset_bytes);
    offset_bytes += padded_cols(node.intermediate.size()) * (kernels.takes_bf16 ? 2 : 4);
    nodes.push_back(std::move(node));
  }
  activated_row_bytes = offset_bytes;
}

void MoeExperts::Impl::take_work_buffers() {
  element_size_bytes = kernels.takes_bf16 ? 2 : 4;
  hidden_row_bytes = padded_cols(shape.hidden_size) * element_size_bytes;
  const int64_t max_pairs = int64_t{shape.max_tokens} * shape.num_experts_per_tok;
  hidden = NumaBuffer(shape.max_tokens * hidden_row_bytes, -1);
  activated = NumaBuffer(max_pairs * activated_row_bytes, -1);  // zeroed: the padding stays so
  if (nodes.size() > 1) {
    for (size_t node_idx = 0; node_idx < nodes.size(); ++node_idx) {
      nodes[node_idx].partial =
          NumaBuffer(int64_t{shape.max_tokens} * shape.hidden_size * int64_t{sizeof(float)},
                     pool.node_os_idx(static_cast<int>(node_idx)));
    }
  }
  jobs.reserve(shape.n_routed_experts);
  expert_begin.resize(shape.n_routed_experts + 1);
  pair_token.resize(max_pairs);
  pair_weight.resize(max_pairs);
  pair_hidden.resize(max_pairs);
  pair_activated.resize(max_pairs);
  scratch.resize(pool.num_workers());
  for (WorkerScratch& worker : scratch) {
    worker.activated.resize(max_pairs);
    worker.input.resize(max_pairs);
    worker.out.resize(max_pairs);
  }
}

void MoeExperts::Impl::pack_expert(const Node& node,
                                   int32_t moe_layer_idx,
                                   int32_t expert_idx,
                                   const ExpertTensors& tensors) {
  TANDEM_CHECK(tensors.gate_proj.out_features() == shape.moe_intermediate_size &&
                   tensors.gate_proj.in_features() == shape.hidden_size &&
                   tensors.down_proj.out_features() == shape.hidden_size &&
                   tensors.down_proj.in_features() == shape.moe_intermediate_size,
               "an expert's tensors differ from the model's shape");
  std::byte* packed = expert_weights(node, moe_layer_idx, expert_idx);
  const int64_t row_block_size_bytes = num_col_blocks(shape.hidden_size) * kBlockSizeBytes;
  const MatrixPart rows{.row_begin = node.intermediate.begin,
                        .num_rows = node.intermediate.size(),
                        .col_begin = 0,
                        .num_cols = shape.hidden_size};
  pack_matrix(tensors.gate_proj, rows, packed, 2 * row_block_size_bytes);
  pack_matrix(tensors.up_proj, rows, packed + row_block_size_bytes, 2 * row_block_size_bytes);
  const MatrixPart cols{.row_begin = 0,
                        .num_rows = shape.hidden_size,
                        .col_begin = node.intermediate.begin,
                        .num_cols = node.intermediate.size()};
  pack_matrix(tensors.down_proj, cols, packed + node.gate_up_size_bytes,
              num_col_blocks(node.intermediate.size()) * kBlockSizeBytes);
}

void MoeExperts::load_layer(int32_t moe_layer_idx, const ExpertSource& source) {
  Impl& experts = *impl_;
  TANDEM_CHECK(moe_layer_idx >= 0 && moe_layer_idx < experts.shape.num_moe_layers,
               "no such MoE layer");
  // A source may throw (a bad tensor); workers may not: the first error is thrown again here.
  std::exception_ptr error;
  std::mutex error_mutex;
  std::atomic<bool> failed{false};
  experts.pool.run([&](const WorkerPool::Worker& worker) {
    const Impl::Node& node = experts.nodes[worker.node_idx];
    const int num_workers = experts.pool.workers_in_node(worker.node_idx);
    try {
      for (int32_t expert_idx = worker.idx_in_node;
           expert_idx < experts.shape.n_routed_experts && !failed; expert_idx += num_workers) {
        experts.pack_expert(node, moe_layer_idx, expert_idx, source(expert_idx, worker.worker_idx));
      }
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

// Pairs (token, expert) by expert, and inside an expert by token: a weight is read once a step.
void MoeExperts::Impl::sort_pairs(const RoutedTokens& tokens) {
  std::fill(expert_begin.begin(), expert_begin.end(), 0);
  const auto num_tokens = static_cast<int32_t>(tokens.hidden.rows);
  const auto num_slots = static_cast<int32_t>(tokens.expert_ids.cols);
  for (int32_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    for (int32_t slot = 0; slot < num_slots; ++slot) {
      const int32_t expert_idx = tokens.expert_ids(token_idx, slot);
      TANDEM_CHECK(expert_idx >= 0 && expert_idx < shape.n_routed_experts,
                   "expert id outside the layer");
      ++expert_begin[expert_idx + 1];
    }
  }
  jobs.clear();
  for (int32_t expert_idx = 0; expert_idx < shape.n_routed_experts; ++expert_idx) {
    const int32_t num_pairs = expert_begin[expert_idx + 1];
    expert_begin[expert_idx + 1] += expert_begin[expert_idx];
    if (num_pairs == 0) continue;
    jobs.push_back({.expert_idx = expert_idx,
                    .pair_begin = expert_begin[expert_idx],
                    .pair_end = expert_begin[expert_idx + 1]});
  }
  // Filling moves expert_begin[e] to the end of expert e; the jobs have kept the beginnings.
  for (int32_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    for (int32_t slot = 0; slot < num_slots; ++slot) {
      const int32_t pair = expert_begin[tokens.expert_ids(token_idx, slot)]++;
      pair_token[pair] = token_idx;
      pair_weight[pair] = tokens.expert_weights(token_idx, slot);
      pair_hidden[pair] = hidden.data() + token_idx * hidden_row_bytes;
      pair_activated[pair] = activated.data() + pair * activated_row_bytes;
    }
  }
}

// Every worker computes its rows of every expert: equal shares whatever the routing.
void MoeExperts::Impl::run_gate_up(int32_t moe_layer_idx, const WorkerPool::Worker& worker) {
  const Node& node = nodes[worker.node_idx];
  const Share blocks = share_of(node.intermediate.size() / kBlockRows, worker.idx_in_node,
                                pool.workers_in_node(worker.node_idx));
  if (blocks.size() == 0) return;
  const int64_t row_block_size_bytes = num_col_blocks(shape.hidden_size) * kBlockSizeBytes;
  const int64_t out_offset_bytes =
      activated_offset_bytes[worker.node_idx] + blocks.begin * kBlockRows * element_size_bytes;
  for (const ExpertJob& job : jobs) {
    void** rows = scratch[worker.worker_idx].activated.data();
    for (int32_t pair = job.pair_begin; pair < job.pair_end; ++pair) {
      rows[pair - job.pair_begin] =
          static_cast<std::byte*>(pair_activated[pair]) + out_offset_bytes;
    }
    const std::byte* weights = expert_weights(node, moe_layer_idx, job.expert_idx);
    kernels.gate_up({.weights = reinterpret_cast<const uint8_t*>(
                         weights + 2 * blocks.begin * row_block_size_bytes),
                     .num_row_blocks = blocks.size(),
                     .num_col_blocks = num_col_blocks(shape.hidden_size),
                     .x = pair_hidden.data() + job.pair_begin,
                     .activated = rows,
                     .num_tokens = job.pair_end - job.pair_begin});
  }
}

// Every worker owns a range of hidden_size and adds the experts in ascending order: that order is
// the one of the bits.
void MoeExperts::Impl::run_down(int32_t moe_layer_idx,
                                const WorkerPool::Worker& worker,
                                MatrixView<float> out) {
  const Node& node = nodes[worker.node_idx];
  const Share blocks = share_of(shape.hidden_size / kBlockRows, worker.idx_in_node,
                                pool.workers_in_node(worker.node_idx));
  if (blocks.size() == 0) return;
  const int64_t first_row = blocks.begin * kBlockRows;
  if (nodes.size() > 1) {
    out = MatrixView<float>(reinterpret_cast<float*>(node.partial.data()), out.rows,
                            shape.hidden_size);
  }
  for (int64_t token_idx = 0; token_idx < out.rows; ++token_idx) {
    std::fill_n(&out(token_idx, first_row), blocks.size() * kBlockRows, 0.0f);
  }
  if (node.intermediate.size() == 0) return;
  const int64_t row_block_size_bytes = num_col_blocks(node.intermediate.size()) * kBlockSizeBytes;
  for (const ExpertJob& job : jobs) {
    WorkerScratch& lists = scratch[worker.worker_idx];
    for (int32_t pair = job.pair_begin; pair < job.pair_end; ++pair) {
      lists.input[pair - job.pair_begin] = static_cast<const std::byte*>(pair_activated[pair]) +
                                           activated_offset_bytes[worker.node_idx];
      lists.out[pair - job.pair_begin] = &out(pair_token[pair], first_row);
    }
    const std::byte* weights =
        expert_weights(node, moe_layer_idx, job.expert_idx) + node.gate_up_size_bytes;
    kernels.down(
        {.weights = reinterpret_cast<const uint8_t*>(weights + blocks.begin * row_block_size_bytes),
         .num_row_blocks = blocks.size(),
         .num_col_blocks = num_col_blocks(node.intermediate.size()),
         .x = lists.input.data(),
         .routing_weights = pair_weight.data() + job.pair_begin,
         .out = lists.out.data(),
         .num_tokens = job.pair_end - job.pair_begin});
  }
}

// out = the nodes' partial sums, in the order of the nodes.
void MoeExperts::Impl::add_partials(const WorkerPool::Worker& worker, MatrixView<float> out) {
  const Share cols = share_of(shape.hidden_size, worker.worker_idx, pool.num_workers());
  for (int64_t token_idx = 0; token_idx < out.rows; ++token_idx) {
    for (int64_t col = cols.begin; col < cols.end; ++col) {
      float sum = 0.0f;
      for (const Node& node : nodes) {
        sum += reinterpret_cast<const float*>(
            node.partial.data())[token_idx * shape.hidden_size + col];
      }
      out(token_idx, col) = sum;
    }
  }
}

void MoeExperts::forward(int32_t moe_layer_idx, const RoutedTokens& tokens, MatrixView<float> out) {
  Impl& experts = *impl_;
  const MoeShape& shape = experts.shape;
  TANDEM_CHECK(moe_layer_idx >= 0 && moe_layer_idx < shape.num_moe_layers, "no such MoE layer");
  TANDEM_CHECK(tokens.hidden.rows <= shape.max_tokens && tokens.hidden.cols == shape.hidden_size &&
                   tokens.expert_ids.cols <= shape.num_experts_per_tok &&
                   out.rows == tokens.hidden.rows && out.cols == shape.hidden_size,
               "routed tokens differ from the layer's shape");
  experts.sort_pairs(tokens);
  experts.pool.run([&](const WorkerPool::Worker& worker) {
    const Share share = share_of(tokens.hidden.rows, worker.worker_idx, experts.pool.num_workers());
    for (int64_t token_idx = share.begin; token_idx < share.end; ++token_idx) {
      experts.kernels.prepare(&tokens.hidden(token_idx, 0).bits, shape.hidden_size,
                              padded_cols(shape.hidden_size),
                              experts.hidden.data() + token_idx * experts.hidden_row_bytes);
    }
    experts.pool.barrier();
    experts.run_gate_up(moe_layer_idx, worker);
    experts.pool.barrier();
    experts.run_down(moe_layer_idx, worker, out);
    if (experts.nodes.size() == 1) return;
    experts.pool.barrier();
    experts.add_partials(worker, out);
  });
}

int64_t MoeExperts::resident_size_bytes() const {
  int64_t size_bytes = 0;
  for (const Impl::Node& node : impl_->nodes) size_bytes += node.weights.size_bytes();
  return size_bytes;
}

std::string_view MoeExperts::isa_name() const { return tandem::isa_name(impl_->isa); }

int64_t MoeExperts::layer_read_bytes(const MoeShape& shape, int64_t num_distinct_experts) {
  // Three matrices of 4 bits a weight and a BF16 scale for every 32 weights.
  const int64_t num_weights = int64_t{3} * shape.hidden_size * shape.moe_intermediate_size;
  return num_distinct_experts *
         (num_weights / 2 + num_weights / kInt4GroupSize * int64_t{sizeof(bf16)});
}

}  // namespace tandem::cpu_experts
