#include "bench/support/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>

namespace tandem::bench {
namespace {

std::string text_of(const Cell& cell) {
  if (const auto* number = std::get_if<Number>(&cell)) {
    return fmt::format("{:.{}f}", number->value, number->num_decimals);
  }
  if (const auto* count = std::get_if<int64_t>(&cell)) return fmt::format("{}", *count);
  return std::get<std::string>(cell);
}

boost::json::value json_of(const Cell& cell) {
  if (const auto* number = std::get_if<Number>(&cell)) return number->value;
  if (const auto* count = std::get_if<int64_t>(&cell)) return *count;
  return boost::json::value(std::get<std::string>(cell));
}

boost::json::object json_of(const Fields& fields) {
  boost::json::object object;
  for (const auto& [name, cell] : fields) object[name] = json_of(cell);
  return object;
}

// The first line of a file of the system, "unknown" without it.
std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) && !line.empty() ? line : "unknown";
}

// A line "name : value" of /proc/cpuinfo, of the first processor.
std::string processor_field(const std::string& wanted) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(':');
    if (line.rfind(wanted, 0) == 0 && line[wanted.size()] == '\t' && colon + 2 < line.size()) {
      return line.substr(colon + 2);
    }
  }
  return "unknown";
}

// "L1d 32K, L1i 32K, L2 512K, L3 32768K" of the first processor.
std::string caches() {
  std::string text;
  for (int index = 0; index < 8; ++index) {
    const std::string folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", index);
    const std::string level = first_line((folder + "level").c_str());
    if (level == "unknown") break;
    const std::string type = first_line((folder + "type").c_str());
    const std::string kind = type == "Data" ? "d" : type == "Instruction" ? "i" : "";
    text += fmt::format("{}L{}{} {}", text.empty() ? "" : ", ", level, kind,
                        first_line((folder + "size").c_str()));
  }
  return text.empty() ? "unknown" : text;
}

// The choice in brackets: "always [madvise] never" is "madvise".
std::string bracketed(const std::string& text) {
  const size_t begin = text.find('[');
  const size_t end = text.find(']');
  return begin == std::string::npos || end == std::string::npos
             ? text
             : text.substr(begin + 1, end - begin - 1);
}

}  // namespace

Report::Report(std::string benchmark, bool json) : benchmark_(std::move(benchmark)), json_(json) {}

void Report::add_machine(const Topology& topology, int num_threads, std::string_view isa_name) {
  add_fact("cpu", topology.cpu_name);
  add_fact("cpu family, model, stepping",
           fmt::format("{}, {}, {}", processor_field("cpu family"), processor_field("model"),
                       processor_field("stepping")));
  add_fact("caches", caches());
  add_fact("isa", std::string(isa_name));
  add_fact("threads", int64_t{num_threads});
  add_fact("cores", int64_t{topology.num_cores()});
  add_fact("numa_nodes", static_cast<int64_t>(topology.nodes.size()));
  add_fact("memory_gib", Number{static_cast<double>(topology.memory_size_bytes) / (1 << 30), 1});
  add_fact("huge_pages", bracketed(first_line("/sys/kernel/mm/transparent_hugepage/enabled")));
  add_fact("kernel", first_line("/proc/sys/kernel/osrelease"));
  add_fact("compiler", "g++ " __VERSION__);
  // What else ran: a figure beside a load of 2 on two cores is not the machine's best.
  const std::string load = first_line("/proc/loadavg");
  add_fact("load_average_1min", load.substr(0, load.find(' ')));
}

void Report::add_fact(std::string name, Cell value) {
  facts_.emplace_back(std::move(name), std::move(value));
}

void Report::add_row(const std::string& table, Fields columns) {
  auto found = std::find_if(tables_.begin(), tables_.end(),
                            [&](const Table& known) { return known.name == table; });
  if (found == tables_.end()) found = tables_.insert(tables_.end(), Table{table, {}});
  found->rows.push_back(std::move(columns));
}

void Report::print() const {
  if (json_) {
    print_json();
  } else {
    print_tables();
  }
}

void Report::print_json() const {
  boost::json::object root;
  root["benchmark"] = benchmark_;
  root["machine"] = json_of(facts_);
  for (const Table& table : tables_) {
    boost::json::array& rows = root[table.name].emplace_array();
    for (const Fields& row : table.rows) rows.push_back(json_of(row));
  }
  fmt::print("{}\n", boost::json::serialize(root));
}

void Report::print_tables() const {
  fmt::print("{}\n", benchmark_);
  for (const auto& [name, value] : facts_) fmt::print("  {:28} {}\n", name, text_of(value));
  for (const Table& table : tables_) {
    fmt::print("\n{}\n", table.name);
    std::vector<size_t> widths;
    for (size_t column = 0; column < table.rows.front().size(); ++column) {
      size_t width = table.rows.front()[column].first.size();
      for (const Fields& row : table.rows) {
        width = std::max(width, text_of(row[column].second).size());
      }
      widths.push_back(width);
    }
    for (size_t column = 0; column < widths.size(); ++column) {
      fmt::print("  {:>{}}", table.rows.front()[column].first, widths[column]);
    }
    fmt::print("\n");
    for (const Fields& row : table.rows) {
      for (size_t column = 0; column < widths.size(); ++column) {
        fmt::print("  {:>{}}", text_of(row[column].second), widths[column]);
      }
      fmt::print("\n");
    }
  }
}

}  // namespace tandem::bench
