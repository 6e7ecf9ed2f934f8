// Packing a checkpoint's routed experts into resident memory: from the page cache and straight from
// disk, beside the copy bandwidth measured in the same run, with the peak of memory.
//   tandem make-checkpoint DIR ...; bench_load DIR [--threads N] [--json]
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "bench/support/report.h"
#include "cpu_experts/moe_experts.h"
#include "runtime/base/errors.h"
#include "runtime/memory/numa_buffer.h"
#include "runtime/model/expert_reader.h"
#include "runtime/topology/bandwidth.h"
#include "runtime/topology/cpu_isa.h"
#include "runtime/topology/topology.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::bench {
namespace {

using cpu_experts::MoeExperts;
using cpu_experts::MoeShape;

struct Options {
  std::string model_dir;
  int num_threads = 0;
  bool json = false;
};

// Seconds until the workers have touched every huge page of as much memory: what taking memory
// costs, without a byte of the checkpoint.
double first_touch_seconds(WorkerPool& pool, int64_t size_bytes) {
  const NumaBuffer memory(size_bytes, -1);
  constexpr int64_t kPageSizeBytes = int64_t{2} << 20;
  const auto begin = std::chrono::steady_clock::now();
  pool.run([&](const WorkerPool::Worker& worker) {
    for (int64_t offset = worker.worker_idx * kPageSizeBytes; offset < size_bytes;
         offset += pool.num_workers() * kPageSizeBytes) {
      memory.data()[offset] = std::byte{1};
    }
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int64_t memory_field_bytes(const char* wanted) {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind(wanted, 0) == 0) return std::stoll(line.substr(line.find(':') + 1)) * 1024;
  }
  return 0;
}

template <typename Body>
double median_seconds(const Body& body) {
  std::array<double, 5> seconds{};
  for (double& one : seconds) one = body();
  std::nth_element(seconds.begin(), seconds.begin() + 2, seconds.end());
  return seconds[2];
}

// VmHWM counts from here.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

// All of the files into the page cache, or none.
void set_cached(const Checkpoint& checkpoint, bool cached) {
  std::vector<char> piece(size_t{8} << 20);
  for (const auto& shard : checkpoint.index().shards()) {
    const int fd = open(shard.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw LoadError(fmt::format("{}: cannot open", shard.string()));
    if (cached) {
      while (read(fd, piece.data(), piece.size()) > 0) continue;
    } else {
      fsync(fd);
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    close(fd);
  }
}

struct Run {
  std::string what;
  bool cached = true;
  ExpertReading reading = ExpertReading::kMapped;
};

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, WorkerPool& pool) : checkpoint_(checkpoint), pool_(pool) {
    const ModelConfig& config = checkpoint.config();
    shape_ = {.hidden_size = config.hidden_size,
              .moe_intermediate_size = config.moe_intermediate_size,
              .n_routed_experts = config.n_routed_experts,
              .num_experts_per_tok = config.num_experts_per_tok,
              .num_moe_layers = config.num_moe_layers(),
              .max_tokens = 1};
  }

  [[nodiscard]] std::unique_ptr<MoeExperts> take_memory() const {
    return std::make_unique<MoeExperts>(shape_, pool_);
  }

  // Seconds to pack every expert.
  double pack(MoeExperts& experts, ExpertReading reading) const {
    const auto begin = std::chrono::steady_clock::now();
    {
      ExpertReader reader(
          checkpoint_,
          {.num_workers = pool_.num_workers(), .num_users = pool_.num_nodes(), .reading = reading});
      load(experts, [&](int32_t layer_idx, int32_t expert_idx, int32_t worker_idx) {
        return reader.expert(layer_idx, expert_idx, worker_idx);
      });
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  // The same from pages that stay mapped, the first time apart: packing alone.
  double pack_mapped(MoeExperts& experts) const {
    std::vector<Checkpoint::ExpertScratch> scratch(static_cast<size_t>(pool_.num_workers()));
    const auto from_mapping = [&](int32_t layer_idx, int32_t expert_idx, int32_t worker_idx) {
      return checkpoint_.expert(layer_idx, expert_idx, scratch[worker_idx]);
    };
    const auto begin = std::chrono::steady_clock::now();
    load(experts, from_mapping);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  template <typename Source>
  void load(MoeExperts& experts, const Source& source) const {
    int32_t moe_layer_idx = 0;
    for (int32_t layer_idx = 0; layer_idx < checkpoint_.config().num_hidden_layers; ++layer_idx) {
      if (checkpoint_.config().is_dense(layer_idx)) continue;
      experts.load_layer(moe_layer_idx++, [&](int32_t expert_idx, int32_t worker_idx) {
        return source(layer_idx, expert_idx, worker_idx);
      });
    }
  }

  const Checkpoint& checkpoint_;
  WorkerPool& pool_;
  MoeShape shape_;
};

void run(const Options& options) {
  const Topology topology = Topology::detect();
  WorkerPool pool(topology, {.num_threads = options.num_threads});
  double expert_bytes = 0.0;
  {
    const Checkpoint checkpoint = Checkpoint::open(options.model_dir);
    if (checkpoint.config().num_moe_layers() == 0) {
      throw LoadError(fmt::format("{}: no routed experts to load", options.model_dir));
    }
    expert_bytes = static_cast<double>(checkpoint.resident_expert_size_bytes());
  }
  Report report("bench_load", options.json);
  report.add_machine(topology, pool.num_workers(), isa_name(active_isa()));
  report.add_fact("expert GB, 4.5 bits a weight", Number{expert_bytes * 1e-9, 3});
  const auto copy_limit = [&] {
    return measure_copy_bandwidth_gb_per_s(pool, int64_t{512} << 20, 7);
  };
  const auto add_row = [&](const std::string& what, double seconds, double copy_gb_per_s,
                           int64_t peak_bytes) {
    const double gb_per_s = expert_bytes * 1e-9 / seconds;
    report.add_row("load",
                   {{"from", what},
                    {"seconds", Number{seconds, 3}},
                    {"GB/s", Number{gb_per_s, 2}},
                    {"copy GB/s", Number{copy_gb_per_s, 1}},
                    // A byte loaded is read and written.
                    {"% of copy", Number{200.0 * gb_per_s / copy_gb_per_s, 1}},
                    {"peak / packed", Number{static_cast<double>(peak_bytes) / expert_bytes, 3}}});
  };
  const std::vector<Run> runs{
      {"page cache", true, ExpertReading::kAuto},
      {"disk, direct reads", false, ExpertReading::kDirect},
      {"disk, mapped pages", false, ExpertReading::kMapped},
  };
  // A virtual machine pays its host for every page that was not in use a moment ago.
  add_row("(first touch of fresh memory alone)",
          first_touch_seconds(pool, static_cast<int64_t>(expert_bytes)), copy_limit(), 0);
  for (const Run& one : runs) {
    // Opened anew: pages that are still mapped would stay in the page cache.
    set_cached(Checkpoint::open(options.model_dir), one.cached);
    const Checkpoint checkpoint = Checkpoint::open(options.model_dir);
    const Loader loader(checkpoint, pool);
    const double copy_gb_per_s = copy_limit();
    forget_peak();
    const int64_t before_bytes = memory_field_bytes("VmRSS:");
    const auto begin = std::chrono::steady_clock::now();
    const std::unique_ptr<MoeExperts> experts = loader.take_memory();
    static_cast<void>(loader.pack(*experts, one.reading));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    const int64_t peak_bytes = memory_field_bytes("VmHWM:") - before_bytes;
    add_row(one.what + ", fresh memory", elapsed.count(), copy_gb_per_s, peak_bytes);
    if (!one.cached) continue;
    report.add_fact("resident / 4.5 bits a weight",
                    Number{static_cast<double>(experts->resident_size_bytes()) / expert_bytes, 4});
    add_row(one.what + ", memory already taken",
            median_seconds([&] { return loader.pack(*experts, one.reading); }), copy_limit(),
            memory_field_bytes("VmHWM:") - before_bytes);
    add_row("mapped pages, memory already taken",
            median_seconds([&] { return loader.pack_mapped(*experts); }), copy_limit(),
            memory_field_bytes("VmHWM:") - before_bytes);
  }
  report.print();
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  tandem::bench::Options options;
  CLI::App app("Measures how fast routed experts are loaded", "bench_load");
  app.add_option("model", options.model_dir, "a checkpoint folder")->required();
  app.add_option("--threads", options.num_threads, "default: one a core")
      ->check(CLI::Range(1, 4096));
  app.add_flag("--json", options.json, "one JSON object instead of tables");
  CLI11_PARSE(app, argc, argv);
  try {
    tandem::bench::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_load: {}\n", error.what());
    return 1;
  }
  return 0;
}
