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
#include "cpu_experts/unit_queue.h"
#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/memory/numa_buffer.h"

namespace tandem::cpu_experts {
namespace {

// One expert's tokens of a step: pairs [begin, end) of the pairs sorted by expert.
struct ExpertJob {
  int32_t expert_idx = 0;
  int32_t pair_begin = 0, pair_end = 0;
  [[nodiscard]] int32_t num_pairs() const { return pair_end - pair_begin; }
};

constexpr int64_t kUnitRows = 32;  // of gate and up: a whole group of the input of down
// Row blocks of down at a time, since every run of them reads all activated tokens anew: what the
// kernels take at once, but where many workers share them less, to end together.
constexpr int64_t kDownRunRowBlocks = 4;

// What one NUMA node holds: a slice of moe_intermediate_size of every expert of every layer, and
// what its team works on.
struct NodePlan {
  Share intermediate;  // columns of down, rows of gate and up; multiples of 32
  int64_t gate_up_size_bytes = 0;
  int64_t down_size_bytes = 0;
  int64_t weights_size_bytes = 0;
  int64_t hidden_size_bytes = 0;
  int64_t activated_size_bytes = 0;
  int64_t gathered_size_bytes = 0;  // of a worker
  int64_t partial_size_bytes = 0;
  int num_workers = 0;
  [[nodiscard]] int64_t expert_size_bytes() const { return gate_up_size_bytes + down_size_bytes; }
  [[nodiscard]] int64_t work_size_bytes() const {
    return hidden_size_bytes + activated_size_bytes + num_workers * gathered_size_bytes +
           partial_size_bytes;
  }
};

// Whole column blocks of down where every node can have one, since what a slice leaves of a block
// is stored all the same; else whole groups of 32: a scale never has two owners.
Share slice_of(int64_t moe_intermediate_size, int node_idx, int num_nodes) {
  const bool has_blocks = num_col_blocks(moe_intermediate_size) >= num_nodes;
  const int64_t unit_cols = has_blocks ? kBlockCols : int64_t{kInt4GroupSize};
  const int64_t num_units = (moe_intermediate_size + unit_cols - 1) / unit_cols;
  const Share units = share_of(num_units, node_idx, num_nodes);
  return {units.begin * unit_cols, std::min(units.end * unit_cols, moe_intermediate_size)};
}

NodePlan plan_node(const MoeShape& shape,
                   const WorkerPool& pool,
                   int node_idx,
                   const KernelChoice& choice) {
  NodePlan plan;
  plan.num_workers = pool.workers_in_node(node_idx);
  plan.intermediate = slice_of(shape.moe_intermediate_size, node_idx, pool.num_nodes());
  plan.gate_up_size_bytes = 2 * packed_size_bytes(plan.intermediate.size(), shape.hidden_size);
  plan.down_size_bytes = packed_size_bytes(shape.hidden_size, plan.intermediate.size());
  plan.weights_size_bytes =
      int64_t{shape.num_moe_layers} * shape.n_routed_experts * plan.expert_size_bytes();
  int64_t input_record_size_bytes = 0, activated_record_size_bytes = 0;
  for (const CpuIsa isa : {choice.few, choice.many}) {
    const ExpertKernels kernels = kernels_of(isa, shape.activations);
    input_record_size_bytes = std::max(input_record_size_bytes, kernels.input_record_size_bytes);
    activated_record_size_bytes =
        std::max(activated_record_size_bytes, kernels.activated_record_size_bytes);
  }
  const int64_t max_tokens = shape.max_tokens;
  const int64_t row_size_bytes = 2 * num_col_blocks(shape.hidden_size) * input_record_size_bytes;
  plan.hidden_size_bytes = max_tokens * row_size_bytes;
  plan.activated_size_bytes = max_tokens * shape.num_experts_per_tok * 2 *
                                  num_col_blocks(plan.intermediate.size()) *
                                  activated_record_size_bytes +
                              kReadBehindBytes;
  plan.gathered_size_bytes =
      std::min<int64_t>(max_tokens, kMaxPassTokens) * row_size_bytes + kReadBehindBytes;
  plan.gathered_size_bytes = (plan.gathered_size_bytes + 63) / 64 * 64;  // whole lines a worker
  if (pool.num_nodes() > 1) {
    plan.partial_size_bytes = max_tokens * shape.hidden_size * int64_t{sizeof(float)};
  }
  return plan;
}

}  // namespace

struct MoeExperts::Impl {
  struct Node {
    NodePlan plan;
    int64_t activated_row_bytes = 0;  // of the step at hand
    NumaBuffer weights;               // [layer][expert]: gate and up row blocks in turn, then down
    NumaBuffer hidden;                // [max_tokens] rows of records
    NumaBuffer activated;             // of max_pairs: [group][token] records for every expert
    NumaBuffer gathered;  // [workers] input of the tokens of a pass, [group][token] records
    NumaBuffer partial;   // [max_tokens, hidden_size] float: this node's sum; unused on one node
    std::unique_ptr<UnitQueue> gate_up_units = std::make_unique<UnitQueue>();
    std::unique_ptr<UnitQueue> down_units = std::make_unique<UnitQueue>();
  };

  MoeShape shape;
  WorkerPool& pool;
  KernelChoice choice;
  ExpertKernels kernels;  // of the step at hand
  std::vector<Node> nodes;

  // Work buffers of a step, taken once.
  int64_t hidden_row_bytes = 0;
  std::vector<ExpertJob> jobs;        // experts with tokens, ascending
  std::vector<int32_t> expert_begin;  // counting sort, [n_routed_experts + 1]
  std::vector<int32_t> pair_token;    // token of every pair, sorted by expert
  std::vector<float> pair_weight;
  struct WorkerScratch {  // pointer lists of one job, as long as all pairs
    std::vector<const void*> input;
    std::vector<float*> out;
  };
  std::vector<WorkerScratch> scratch;

  Impl(const MoeShape& shape_in, WorkerPool& pool_in)
      : shape(shape_in), pool(pool_in), choice(choose_kernels(shape_in.activations)) {}
  void take_nodes();
  void take_step_lists();
  void use_kernels(CpuIsa isa);
  void sort_pairs(const RoutedTokens& tokens);
  void fill_queues();
  void prepare_hidden(const RoutedTokens& tokens, const WorkerPool::Worker& worker);
  void run_gate_up(int32_t moe_layer_idx, const WorkerPool::Worker& worker);
  void gate_up_rows(int32_t moe_layer_idx,
                    const WorkerPool::Worker& worker,
                    const ExpertJob& job,
                    Share units);
  void run_down(int32_t moe_layer_idx, const WorkerPool::Worker& worker, MatrixView<float> out);
  void down_rows(int32_t moe_layer_idx,
                 const WorkerPool::Worker& worker,
                 Share row_blocks,
                 MatrixView<float> out);
  void add_partials(const WorkerPool::Worker& worker, MatrixView<float> out);
  void pack_expert(const Node& node,
                   int32_t moe_layer_idx,
                   int32_t expert_idx,
                   const ExpertTensors& tensors);
  [[nodiscard]] std::byte* expert_weights(const Node& node,
                                          int32_t moe_layer_idx,
                                          int32_t expert_idx) const {
    return node.weights.data() + (int64_t{moe_layer_idx} * shape.n_routed_experts + expert_idx) *
                                     node.plan.expert_size_bytes();
  }
};

MoeExperts::MoeExperts(const MoeShape& shape, WorkerPool& pool)
    : impl_(std::make_unique<Impl>(shape, pool)) {
  if (shape.hidden_size % kInt4GroupSize != 0 ||
      shape.moe_intermediate_size % kInt4GroupSize != 0) {
    throw ConfigError(fmt::format(
        "hidden_size is {} and moe_intermediate_size {}, expected multiples of {} for INT4 experts",
        shape.hidden_size, shape.moe_intermediate_size, kInt4GroupSize));
  }
  impl_->take_nodes();
  impl_->take_step_lists();
}

MoeExperts::~MoeExperts() = default;

void MoeExperts::Impl::take_nodes() {
  for (int node_idx = 0; node_idx < pool.num_nodes(); ++node_idx) {
    const NodePlan plan = plan_node(shape, pool, node_idx, choice);
    const int os_idx = pool.node_os_idx(node_idx);
    Node node{.plan = plan,
              .weights = NumaBuffer(plan.weights_size_bytes, os_idx),
              .hidden = NumaBuffer(plan.hidden_size_bytes, os_idx),
              .activated = NumaBuffer(plan.activated_size_bytes, os_idx),
              .gathered = NumaBuffer(plan.num_workers * plan.gathered_size_bytes, os_idx),
              .partial = NumaBuffer(plan.partial_size_bytes, os_idx)};
    nodes.push_back(std::move(node));
  }
}

// The kernels of a step and the sizes of their rows.
void MoeExperts::Impl::use_kernels(CpuIsa isa) {
  kernels = kernels_of(isa, shape.activations);
  hidden_row_bytes = 2 * num_col_blocks(shape.hidden_size) * kernels.input_record_size_bytes;
  for (Node& node : nodes) {
    node.activated_row_bytes =
        2 * num_col_blocks(node.plan.intermediate.size()) * kernels.activated_record_size_bytes;
  }
}

void MoeExperts::Impl::take_step_lists() {
  const int64_t max_pairs = int64_t{shape.max_tokens} * shape.num_experts_per_tok;
  jobs.reserve(shape.n_routed_experts);
  expert_begin.resize(shape.n_routed_experts + 1);
  pair_token.resize(max_pairs);
  pair_weight.resize(max_pairs);
  scratch.resize(pool.num_workers());
  for (WorkerScratch& worker : scratch) {
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
  cpu_experts::pack_expert(
      tensors, {.begin = node.plan.intermediate.begin, .size = node.plan.intermediate.size()},
      expert_weights(node, moe_layer_idx, expert_idx));
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
    }
  }
}

void MoeExperts::Impl::fill_queues() {
  const int64_t num_pairs = jobs.empty() ? 0 : jobs.back().pair_end;
  for (int node_idx = 0; node_idx < pool.num_nodes(); ++node_idx) {
    Node& node = nodes[node_idx];
    const int num_workers = pool.workers_in_node(node_idx);
    const int64_t expert_units = node.plan.intermediate.size() / kUnitRows;
    node.gate_up_units->reset(static_cast<int64_t>(jobs.size()) * expert_units,
                              std::max<int64_t>(expert_units, 1), 1, num_workers);
    const int64_t num_row_blocks = shape.hidden_size / kBlockRows;
    const bool few = num_pairs <= kernels.few_tokens * static_cast<int64_t>(jobs.size());
    const int64_t grain = few ? 1 : kernels.tile_row_blocks;
    node.down_units->reset(
        num_row_blocks, num_row_blocks,
        std::clamp(num_row_blocks / (16 * num_workers) / grain * grain, grain, kDownRunRowBlocks),
        num_workers);
  }
}

// The layer's input in the kernels' form: every node makes its own copy.
void MoeExperts::Impl::prepare_hidden(const RoutedTokens& tokens,
                                      const WorkerPool::Worker& worker) {
  const Node& node = nodes[worker.node_idx];
  const int64_t num_blocks = num_col_blocks(shape.hidden_size);
  const Share blocks = share_of(tokens.hidden.rows * num_blocks, worker.idx_in_node,
                                pool.workers_in_node(worker.node_idx));
  for (int64_t block = blocks.begin; block < blocks.end;) {
    const int64_t token_idx = block / num_blocks;
    const int64_t first_block = block % num_blocks;
    const int64_t end_block = std::min(num_blocks, first_block + blocks.end - block);
    const int64_t first_col = first_block * kBlockCols;
    kernels.prepare(&tokens.hidden(token_idx, first_col).bits,
                    std::min<int64_t>(end_block * kBlockCols, shape.hidden_size) - first_col,
                    node.hidden.data() + token_idx * hidden_row_bytes +
                        2 * first_block * kernels.input_record_size_bytes);
    block += end_block - first_block;
  }
}

void MoeExperts::Impl::run_gate_up(int32_t moe_layer_idx, const WorkerPool::Worker& worker) {
  const Node& node = nodes[worker.node_idx];
  const int64_t expert_units = node.plan.intermediate.size() / kUnitRows;
  for (Share units = node.gate_up_units->take(); units.size() != 0;
       units = node.gate_up_units->take()) {
    const int64_t first_unit = units.begin / expert_units * expert_units;
    gate_up_rows(moe_layer_idx, worker, jobs[units.begin / expert_units],
                 {units.begin - first_unit, units.end - first_unit});
  }
}

void MoeExperts::Impl::gate_up_rows(int32_t moe_layer_idx,
                                    const WorkerPool::Worker& worker,
                                    const ExpertJob& job,
                                    Share units) {
  const Node& node = nodes[worker.node_idx];
  WorkerScratch& lists = scratch[worker.worker_idx];
  for (int32_t pair = job.pair_begin; pair < job.pair_end; ++pair) {
    lists.input[pair - job.pair_begin] = node.hidden.data() + pair_token[pair] * hidden_row_bytes;
  }
  const int64_t row_block_size_bytes = num_col_blocks(shape.hidden_size) * kBlockSizeBytes;
  const int64_t first_row_block = units.begin * kUnitRows / kBlockRows;
  const std::byte* weights = expert_weights(node, moe_layer_idx, job.expert_idx) +
                             2 * first_row_block * row_block_size_bytes;
  kernels.gate_up(
      {.weights = reinterpret_cast<const uint8_t*>(weights),
       .num_row_blocks = units.size() * kUnitRows / kBlockRows,
       .num_col_blocks = num_col_blocks(shape.hidden_size),
       .x = lists.input.data(),
       .gathered = node.gathered.data() + worker.idx_in_node * node.plan.gathered_size_bytes,
       .activated = node.activated.data() + job.pair_begin * node.activated_row_bytes,
       .first_row = units.begin * kUnitRows,
       .num_tokens = job.num_pairs(),
       .ends_half_block =
           units.end * kUnitRows == node.plan.intermediate.size() && units.end % 2 != 0});
}

void MoeExperts::Impl::run_down(int32_t moe_layer_idx,
                                const WorkerPool::Worker& worker,
                                MatrixView<float> out) {
  const Node& node = nodes[worker.node_idx];
  if (nodes.size() > 1) {
    out = MatrixView<float>(reinterpret_cast<float*>(node.partial.data()), out.rows,
                            shape.hidden_size);
  }
  for (Share blocks = node.down_units->take(); blocks.size() != 0;
       blocks = node.down_units->take()) {
    down_rows(moe_layer_idx, worker, blocks, out);
  }
}

// Rows of all experts, in ascending order: that order is the one of the bits.
void MoeExperts::Impl::down_rows(int32_t moe_layer_idx,
                                 const WorkerPool::Worker& worker,
                                 Share row_blocks,
                                 MatrixView<float> out) {
  const Node& node = nodes[worker.node_idx];
  const int64_t first_row = row_blocks.begin * kBlockRows;
  for (int64_t token_idx = 0; token_idx < out.rows; ++token_idx) {
    std::fill_n(&out(token_idx, first_row), row_blocks.size() * kBlockRows, 0.0f);
  }
  if (node.plan.intermediate.size() == 0) return;
  const int64_t row_block_size_bytes =
      num_col_blocks(node.plan.intermediate.size()) * kBlockSizeBytes;
  WorkerScratch& lists = scratch[worker.worker_idx];
  for (const ExpertJob& job : jobs) {
    for (int32_t pair = job.pair_begin; pair < job.pair_end; ++pair) {
      lists.out[pair - job.pair_begin] = &out(pair_token[pair], first_row);
    }
    const std::byte* weights = expert_weights(node, moe_layer_idx, job.expert_idx) +
                               node.plan.gate_up_size_bytes +
                               row_blocks.begin * row_block_size_bytes;
    kernels.down({.weights = reinterpret_cast<const uint8_t*>(weights),
                  .num_row_blocks = row_blocks.size(),
                  .num_col_blocks = num_col_blocks(node.plan.intermediate.size()),
                  .x = node.activated.data() + job.pair_begin * node.activated_row_bytes,
                  .routing_weights = pair_weight.data() + job.pair_begin,
                  .out = lists.out.data(),
                  .num_tokens = job.num_pairs()});
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
  experts.use_kernels(
      experts.choice.isa_for(tokens.expert_ids.rows * tokens.expert_ids.cols,
                             std::max<int64_t>(static_cast<int64_t>(experts.jobs.size()), 1)));
  experts.fill_queues();
  experts.pool.run([&](const WorkerPool::Worker& worker) {
    experts.prepare_hidden(tokens, worker);
    experts.pool.barrier();
    experts.run_gate_up(moe_layer_idx, worker);
    experts.pool.barrier();
    experts.run_down(moe_layer_idx, worker, out);
    if (experts.nodes.size() == 1) return;
    experts.pool.barrier();
    experts.add_partials(worker, out);
  });
}

std::span<const std::byte> MoeExperts::node_weights(int node_idx) const {
  const NumaBuffer& weights = impl_->nodes[node_idx].weights;
  return {weights.data(), static_cast<size_t>(weights.size_bytes())};
}

int64_t MoeExperts::resident_size_bytes() const {
  int64_t size_bytes = 0;
  for (const Impl::Node& node : impl_->nodes) size_bytes += node.weights.size_bytes();
  return size_bytes;
}

MoeExperts::PlannedSize MoeExperts::planned_size(const MoeShape& shape, const WorkerPool& pool) {
  const KernelChoice choice = choose_kernels(shape.activations);
  PlannedSize size;
  for (int node_idx = 0; node_idx < pool.num_nodes(); ++node_idx) {
    const NodePlan plan = plan_node(shape, pool, node_idx, choice);
    size.weights_bytes += plan.weights_size_bytes;
    size.work_bytes += plan.work_size_bytes();
  }
  const int64_t pair_bytes = int64_t{sizeof(int32_t) + sizeof(float)} +
                             pool.num_workers() * int64_t{sizeof(void*) + sizeof(float*)};
  size.work_bytes += int64_t{shape.max_tokens} * shape.num_experts_per_tok * pair_bytes;
  return size;
}

std::string MoeExperts::isa_name() const { return impl_->choice.name(); }

int64_t MoeExperts::layer_read_bytes(const MoeShape& shape, int64_t num_distinct_experts) {
  // Three matrices of 4 bits a weight and a BF16 scale for every 32 weights.
  const int64_t num_weights = int64_t{3} * shape.hidden_size * shape.moe_intermediate_size;
  return num_distinct_experts *
         (num_weights / 2 + num_weights / kInt4GroupSize * int64_t{sizeof(bf16)});
}

}  // namespace tandem::cpu_experts
