// What only a machine with several NUMA nodes can show: where pages lie, where teams run, what they
// read. ./test --numa runs it in a virtual machine with two nodes.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cpu_experts/moe_experts.h"
#include "runtime/memory/numa_buffer.h"
#include "runtime/topology/topology.h"
#include "runtime/topology/worker_pool.h"
#include "tests/cpu_experts/expert_fixture.h"

namespace tandem::tests {
namespace {

using cpu_experts::MoeExperts;
using cpu_experts::MoeShape;

Topology several_nodes() {
  Topology topology = Topology::detect();
  if (topology.nodes.size() < 2) SKIP("this machine has one NUMA node");
  return topology;
}

// Pages of [data, data + size) that lie elsewhere than on the node, or nowhere.
int64_t num_misplaced_pages(const std::byte* data, int64_t size_bytes, int node_os_idx) {
  std::vector<const void*> pages;
  for (int64_t offset = 0; offset < size_bytes; offset += 4096) pages.push_back(data + offset);
  std::vector<int> nodes(pages.size(), -1);
  REQUIRE(syscall(SYS_move_pages, 0, pages.size(), pages.data(), nullptr, nodes.data(), 0) == 0);
  return std::count_if(nodes.begin(), nodes.end(), [&](int node) { return node != node_os_idx; });
}

TEST_CASE("every node is found with cores and memory of its own", "[numa]") {
  const Topology topology = several_nodes();
  for (const NumaNode& node : topology.nodes) {
    CHECK(node.memory_size_bytes > 0);
    for (const int processor : node.core_os_idx) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(static_cast<unsigned>(processor), &set);
      REQUIRE(sched_setaffinity(0, sizeof(set), &set) == 0);
      unsigned node_os_idx = 0;
      REQUIRE(getcpu(nullptr, &node_os_idx) == 0);
      CHECK(static_cast<int>(node_os_idx) == node.os_idx);
    }
  }
  cpu_set_t all;
  std::memset(&all, 0xFF, sizeof(all));
  REQUIRE(sched_setaffinity(0, sizeof(all), &all) == 0);
}

TEST_CASE("memory lies on the node it was asked for, whoever touches it first", "[numa]") {
  const Topology topology = several_nodes();
  for (const NumaNode& node : topology.nodes) {
    const NumaBuffer buffer(int64_t{24} << 20, node.os_idx);
    std::memset(buffer.data(), 1, static_cast<size_t>(buffer.size_bytes()));
    CHECK(num_misplaced_pages(buffer.data(), buffer.size_bytes(), node.os_idx) == 0);
    const PageUse use = read_page_use(buffer.data(), buffer.size_bytes(), node.os_idx);
    CHECK(use.remote_size_bytes == 0);
    CHECK(use.huge_size_bytes > 0);
    const int other = topology.nodes[node.os_idx == topology.nodes[0].os_idx ? 1 : 0].os_idx;
    CHECK(read_page_use(buffer.data(), buffer.size_bytes(), other).remote_size_bytes ==
          use.resident_size_bytes);
  }
}

TEST_CASE("each team runs on its own node's cores, the caller too while a step lives", "[numa]") {
  const Topology topology = several_nodes();
  WorkerPool pool(topology, {});
  REQUIRE(pool.num_nodes() == static_cast<int>(topology.nodes.size()));
  CHECK(pool.num_workers() == topology.num_cores());
  std::atomic<int> num_strays{0};
  const WorkerPool::Step step(pool);
  for (int round = 0; round < 50; ++round) {
    pool.run([&](const WorkerPool::Worker& worker) {
      unsigned node_os_idx = 0;
      getcpu(nullptr, &node_os_idx);
      num_strays += static_cast<int>(node_os_idx) != pool.node_os_idx(worker.node_idx);
      pool.barrier();
    });
  }
  CHECK(num_strays.load() == 0);
}

// Changes a setting of the machine for a moment: only for a virtual one.
TEST_CASE("reserved huge pages of a node are used when they suffice", "[.][vm]") {
  const Topology topology = several_nodes();
  const int node_os_idx = topology.nodes.back().os_idx;
  const std::string file = "/sys/devices/system/node/node" + std::to_string(node_os_idx) +
                           "/hugepages/hugepages-2048kB/nr_hugepages";
  std::ofstream(file) << 16 << std::flush;
  int64_t num_reserved = 0;
  std::ifstream(file) >> num_reserved;
  REQUIRE(num_reserved == 16);
  {
    const NumaBuffer fits(int64_t{32} << 20, node_os_idx);
    const NumaBuffer too_large(int64_t{34} << 20, node_os_idx);  // none are left for it
    for (const NumaBuffer* buffer : {&fits, &too_large}) {
      std::memset(buffer->data(), 1, static_cast<size_t>(buffer->size_bytes()));
      CHECK(num_misplaced_pages(buffer->data(), buffer->size_bytes(), node_os_idx) == 0);
    }
    CHECK(read_page_use(fits.data(), fits.size_bytes(), node_os_idx).huge_size_bytes ==
          fits.size_bytes());
    int64_t num_free = -1;
    std::ifstream("/sys/devices/system/node/node" + std::to_string(node_os_idx) +
                  "/hugepages/hugepages-2048kB/free_hugepages") >>
        num_free;
    CHECK(num_free == 0);
  }
  std::ofstream(file) << 0 << std::flush;
}

// One layer of random experts on a pool, and a step's result.
class Layer {
 public:
  explicit Layer(WorkerPool& pool)
      : pool_(pool), experts_(std::make_unique<MoeExperts>(kShape, pool)) {
    std::mt19937 random(5);
    std::vector<OwnedExpert> owned;
    for (int32_t expert_idx = 0; expert_idx < kShape.n_routed_experts; ++expert_idx) {
      owned.push_back(
          random_expert(kShape.hidden_size, kShape.moe_intermediate_size, random, Scales::kAlike));
    }
    experts_->load_layer(0, [&](int32_t expert_idx, int32_t) { return owned[expert_idx].view(); });
  }

  std::vector<float> forward() {
    std::mt19937 random(6);
    const Routing routing = random_routing(kTokens, kShape.hidden_size, kShape.n_routed_experts,
                                           kShape.num_experts_per_tok, random, 1.0f);
    std::vector<float> out(static_cast<size_t>(kTokens) * kShape.hidden_size);
    const int64_t top_k = kShape.num_experts_per_tok;
    experts_->forward(0,
                      {.hidden = {routing.hidden.data(), kTokens, kShape.hidden_size},
                       .expert_ids = {routing.expert_ids.data(), kTokens, top_k},
                       .expert_weights = {routing.expert_weights.data(), kTokens, top_k}},
                      {out.data(), kTokens, kShape.hidden_size});
    return out;
  }
  [[nodiscard]] const MoeExperts& experts() const { return *experts_; }
  [[nodiscard]] WorkerPool& pool() const { return pool_; }

 private:
  static constexpr int64_t kTokens = 5;
  static constexpr MoeShape kShape{.hidden_size = 512,
                                   .moe_intermediate_size = 256,
                                   .n_routed_experts = 12,
                                   .num_experts_per_tok = 3,
                                   .num_moe_layers = 1,
                                   .max_tokens = kTokens};
  WorkerPool& pool_;
  std::unique_ptr<MoeExperts> experts_;
};

TEST_CASE("each node holds its half of every expert, and the halves make the whole", "[numa]") {
  const Topology topology = several_nodes();
  WorkerPool pool(topology, {});
  Layer layer(pool);
  int64_t total_size_bytes = 0;
  for (int node_idx = 0; node_idx < pool.num_nodes(); ++node_idx) {
    const std::span weights = layer.experts().node_weights(node_idx);
    const auto size_bytes = static_cast<int64_t>(weights.size());
    CHECK(num_misplaced_pages(weights.data(), size_bytes, pool.node_os_idx(node_idx)) == 0);
    total_size_bytes += size_bytes;
  }
  CHECK(total_size_bytes ==
        MoeExperts::layer_read_bytes({.hidden_size = 512, .moe_intermediate_size = 256}, 12));
  const std::vector<float> halves = layer.forward();
  Topology one_node = topology;
  one_node.nodes.resize(1);
  WorkerPool single(one_node, {});
  Layer whole(single);
  const std::vector<float> wanted = whole.forward();
  double error = 0.0, norm = 0.0;
  for (size_t idx = 0; idx < wanted.size(); ++idx) {
    error += std::pow(static_cast<double>(halves[idx]) - wanted[idx], 2);
    norm += std::pow(static_cast<double>(wanted[idx]), 2);
  }
  CHECK(norm > 0.0);
  CHECK(std::sqrt(error / norm) < 1e-3);
}

// A key for every node's weights (memory protection keys: rights that each thread has for itself).
class NodeKeys {
 public:
  explicit NodeKeys(const Layer& layer) : layer_(layer) {
    for (int node_idx = 0; node_idx < layer.pool().num_nodes(); ++node_idx) {
      const int key = pkey_alloc(0, 0);
      if (key < 0) SKIP("this CPU or system has no memory protection keys");
      keys_.push_back(key);
      protect(node_idx, key);
    }
  }
  NodeKeys(const NodeKeys&) = delete;
  NodeKeys& operator=(const NodeKeys&) = delete;
  ~NodeKeys() {
    for (size_t node_idx = 0; node_idx < keys_.size(); ++node_idx) {
      protect(static_cast<int>(node_idx), 0);
      pkey_free(keys_[node_idx]);
    }
  }

  // What the calling thread may read: its own node's weights, or all.
  void forbid_others(int own_node_idx) const { set(own_node_idx, PKEY_DISABLE_ACCESS); }
  void allow_all() const { set(-1, 0); }

 private:
  void protect(int node_idx, int key) const {
    const std::span weights = layer_.experts().node_weights(node_idx);
    // Whole pages: a buffer begins at one and has the rest of its last one for itself.
    const size_t size_bytes = (weights.size() + 4095) / 4096 * 4096;
    static_cast<void>(pkey_mprotect(const_cast<std::byte*>(weights.data()), size_bytes,
                                    PROT_READ | PROT_WRITE, key));
  }
  void set(int own_node_idx, unsigned rights) const {
    for (size_t node_idx = 0; node_idx < keys_.size(); ++node_idx) {
      pkey_set(keys_[node_idx], static_cast<int>(node_idx) == own_node_idx ? 0 : rights);
    }
  }

  const Layer& layer_;
  std::vector<int> keys_;
};

TEST_CASE("a team that reads another node's half is caught, and none does", "[numa]") {
  const Topology topology = several_nodes();
  WorkerPool pool(topology, {});
  Layer layer(pool);
  const std::vector<float> wanted = layer.forward();
  const NodeKeys keys(layer);
  // The trap works: a child that may read node 0's half alone dies of reading node 1's.
  for (const int read_node_idx : {0, 1}) {
    const pid_t child = fork();
    if (child == 0) {
      signal(SIGSEGV, SIG_DFL);
      keys.forbid_others(0);
      const volatile std::byte value = layer.experts().node_weights(read_node_idx).front();
      static_cast<void>(value);
      _exit(0);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) == (read_node_idx == 1));
  }
  pool.run([&](const WorkerPool::Worker& worker) { keys.forbid_others(worker.node_idx); });
  const std::vector<float> got = layer.forward();
  pool.run([&](const WorkerPool::Worker&) { keys.allow_all(); });
  CHECK(got == wanted);
}

}  // namespace
}  // namespace tandem::tests
