// What a benchmark prints: the machine, then rows, as a table for people or as one JSON object.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/topology/topology.h"

namespace tandem::bench {

// A number knows how many decimals its table shows; JSON has it in full.
struct Number {
  double value = 0.0;
  int num_decimals = 1;
};
using Cell = std::variant<std::string, int64_t, Number>;
using Fields = std::vector<std::pair<std::string, Cell>>;

class Report {
 public:
  Report(std::string benchmark, bool json);

  // Facts of the whole run: CPU, memory, pages, load, then whatever is measured as a limit.
  void add_machine(const Topology& topology, int num_threads, std::string_view isa_name);
  void add_fact(std::string name, Cell value);
  // A row of the table `table`; all rows of a table have the same columns.
  void add_row(const std::string& table, Fields columns);

  // To stdout.
  void print() const;

 private:
  struct Table {
    std::string name;
    std::vector<Fields> rows;
  };
  void print_json() const;
  void print_tables() const;

  std::string benchmark_;
  bool json_;
  Fields facts_;
  std::vector<Table> tables_;
};

}  // namespace tandem::bench
