// The machine's limits that everything else is compared with: read and copy bandwidth, per NUMA
// node, per thread count, and the peak of every instruction.
//   bench_stream [--size-mib N] [--repeats N] [--json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <string>
#include <vector>

#include "bench/host_peak.h"
#include "bench/support/report.h"
#include "runtime/topology/bandwidth.h"
#include "runtime/topology/cpu_isa.h"
#include "runtime/topology/topology.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::bench {
namespace {

struct Options {
  int64_t size_mib = 1024;
  int repeats = 9;
  bool json = false;
};

void add_bandwidths(Report& report,
                    const Topology& topology,
                    int num_threads,
                    const Options& options) {
  for (const StreamBandwidth& one :
       measure_stream_bandwidths(topology, num_threads, options.size_mib << 20, options.repeats)) {
    report.add_row("bandwidth", {{"node", one.node_os_idx < 0 ? std::string("all")
                                                              : std::to_string(one.node_os_idx)},
                                 {"threads", int64_t{one.num_threads}},
                                 {"read GB/s", Number{one.read_gb_per_s, 1}},
                                 {"copy GB/s", Number{one.copy_gb_per_s, 1}}});
  }
}

void add_instruction_peaks(Report& report, const Topology& topology) {
  WorkerPool pool(topology, {});
  for (const InstructionPeak& peak : measure_instruction_peaks(pool)) {
    report.add_row("instructions", {{"instruction", std::string(peak.name)},
                                    {"threads", int64_t{pool.num_workers()}},
                                    {"GFLOP/s or GOP/s", Number{peak.giga_ops_per_s, 0}}});
  }
}

void run(const Options& options) {
  const Topology topology = Topology::detect();
  Report report("bench_stream", options.json);
  report.add_machine(topology, topology.num_usable_cores(), isa_name(active_isa()));
  report.add_fact("size_mib", options.size_mib);
  for (int num_threads = 1; num_threads < topology.num_usable_cores(); num_threads *= 2) {
    add_bandwidths(report, topology, num_threads, options);
  }
  add_bandwidths(report, topology, topology.num_usable_cores(), options);
  add_instruction_peaks(report, topology);
  report.print();
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  tandem::bench::Options options;
  CLI::App app("Measures memory bandwidth and the peak of every instruction", "bench_stream");
  app.add_option("--size-mib", options.size_mib, "MiB read in one measurement, beyond every cache")
      ->check(CLI::Range(16, 1 << 20))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "measurements, the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object instead of tables");
  CLI11_PARSE(app, argc, argv);
  try {
    tandem::bench::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_stream: {}\n", error.what());
    return 1;
  }
  return 0;
}
