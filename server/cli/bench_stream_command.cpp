// The memory's read and copy bandwidth, of every NUMA node by its own cores and of all: the limit
// of a decode step.
#include <fmt/format.h>

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "runtime/topology/bandwidth.h"
#include "runtime/topology/topology.h"
#include "server/cli/commands.h"

namespace tandem::cli {
namespace {

void print_json(const Topology& topology, const std::vector<StreamBandwidth>& bandwidths) {
  boost::json::array rows;
  for (const StreamBandwidth& one : bandwidths) {
    boost::json::object row{{"threads", one.num_threads},
                            {"read_gb_per_s", one.read_gb_per_s},
                            {"copy_gb_per_s", one.copy_gb_per_s}};
    if (one.node_os_idx < 0) {
      row["node"] = "all";
    } else {
      row["node"] = one.node_os_idx;
    }
    rows.push_back(std::move(row));
  }
  fmt::print("{}\n", boost::json::serialize(boost::json::object{
                         {"version", TANDEM_VERSION},
                         {"cpu", topology.cpu_name},
                         {"numa_nodes", static_cast<int64_t>(topology.nodes.size())},
                         {"bandwidth", std::move(rows)}}));
}

void print_table(const Topology& topology, const std::vector<StreamBandwidth>& bandwidths) {
  fmt::print("machine      {}, {} cores on {} NUMA node{}\n\n", topology.cpu_name,
             topology.num_cores(), topology.nodes.size(), topology.nodes.size() == 1 ? "" : "s");
  fmt::print("{:>6} {:>8} {:>10} {:>10}\n", "node", "threads", "read GB/s", "copy GB/s");
  for (const StreamBandwidth& one : bandwidths)
    fmt::print("{:>6} {:>8} {:>10.1f} {:>10.1f}\n",
               one.node_os_idx < 0 ? "all" : std::to_string(one.node_os_idx), one.num_threads,
               one.read_gb_per_s, one.copy_gb_per_s);
  fmt::print("(a byte copied counts twice, as it is read and written)\n");
}

}  // namespace

int run_bench_stream(const BenchOptions& options) {
  const Topology topology = Topology::detect();
  const std::vector<StreamBandwidth> bandwidths = measure_stream_bandwidths(
      topology, options.model.num_threads, options.bandwidth_size_mib << 20, 5);
  if (options.json) {
    print_json(topology, bandwidths);
  } else {
    print_table(topology, bandwidths);
  }
  return 0;
}

}  // namespace tandem::cli
