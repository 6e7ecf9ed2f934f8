// Arrows point down: who may include whom, and which library belongs to which folder.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tests/tidy/source_tree.h"

namespace tandem::tidy {
namespace {

bool is_within(std::string_view path, std::string_view folder) {
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

bool is_within_any(std::string_view path, const std::vector<std::string_view>& folders) {
  return std::any_of(folders.begin(), folders.end(),
                     [&](std::string_view folder) { return is_within(path, folder); });
}

std::string top_level(std::string_view path) { return std::string(path.substr(0, path.find('/'))); }

// Folder -> what it may include besides itself. Inside runtime the order of runtime/CMakeLists.txt.
const std::map<std::string, std::vector<std::string_view>>& allowed_arrows() {
  static const std::map<std::string, std::vector<std::string_view>> kAllowed = {
      {"runtime/base", {}},
      {"runtime/topology", {"runtime/base"}},
      {"runtime/memory", {"runtime/base", "runtime/topology"}},
      {"runtime/model", {"runtime/base", "runtime/memory", "runtime/topology"}},
      {"runtime/reference", {"runtime/base", "runtime/memory", "runtime/model"}},
      {"runtime/tokenizer", {"runtime/base"}},
      {"runtime/kv", {"runtime/base", "runtime/model"}},
      {"runtime/kv_store", {"runtime/base", "runtime/kv", "runtime/memory", "runtime/model"}},
      {"runtime/sampling", {"runtime/base"}},
      {"runtime/grammar", {"runtime/base", "runtime/sampling", "runtime/tokenizer"}},
      {"runtime/scheduler",
       {"runtime/base", "runtime/kv", "runtime/kv_store", "runtime/model", "runtime/sampling"}},
      {"runtime/engine",
       {"runtime/base", "runtime/kv", "runtime/kv_store", "runtime/model", "runtime/sampling",
        "runtime/scheduler"}},
      {"cpu_experts", {"runtime"}},
      {"gpu", {"runtime"}},
      {"offload", {"cpu_experts", "gpu", "runtime"}},
      {"server", {"runtime"}},
      {"tests", {"bench", "cpu_experts", "gpu", "offload", "runtime", "server"}},
      {"bench", {"cpu_experts", "gpu", "offload", "runtime", "server", "tests/support"}},
  };
  return kAllowed;
}

std::string violation_of(const SourceFile& file, const Include& include) {
  if (!include.quoted) return "";
  if (file.path == "server/main.cpp" && is_within_any(include.target, {"gpu", "offload"}))
    return "";
  const std::string own = file.path.starts_with("runtime/") ? file.folder : top_level(file.path);
  if (is_within(include.target, own)) return "";
  const auto allowed = allowed_arrows().find(own);
  if (allowed == allowed_arrows().end()) return "no rule for folder " + own;
  if (is_within_any(include.target, allowed->second)) return "";
  return own + " may not include it";
}

TEST_CASE("every quoted include follows an allowed arrow and is written from the root", "[tidy]") {
  for (const SourceFile& file : read_source_files()) {
    for (const Include& include : includes_of(file)) {
      const std::string violation = violation_of(file, include);
      INFO(file.path << ":" << include.line_number << ": \"" << include.target
                     << "\": " << violation);
      CHECK(violation.empty());
      if (include.quoted) CHECK(std::filesystem::exists(source_root() / include.target));
    }
  }
}

TEST_CASE("a library's headers stay in the folders that own it", "[tidy]") {
  struct Rule {
    std::string_view prefix;
    std::vector<std::string_view> folders;
  };
  const std::vector<Rule> rules = {
      {"boost/asio", {"server", "tests/server"}},
      {"boost/beast", {"server", "tests/server"}},
      {"boost/json",
       {"runtime/grammar", "runtime/model", "runtime/tokenizer", "server", "tests", "bench"}},
      {"xgrammar/", {"runtime/grammar/text_grammar.cpp"}},
      {"hwloc", {"runtime/topology", "runtime/memory", "tests/runtime"}},
      {"pcre2", {"runtime/tokenizer", "runtime/grammar"}},
      {"dnnl", {"cpu_experts", "gpu/host", "tests/gpu", "bench"}},
      {"oneapi/dnnl", {"cpu_experts", "gpu/host", "tests/gpu", "bench"}},
      {"CLI/", {"server/main.cpp", "server/cli", "tests/scripted_server", "bench"}},
      {"mimalloc", {"server/main.cpp", "server/cli", "runtime/memory"}},
      {"cuda", {"gpu/cuda", "tests/gpu", "bench"}},
      {"cublas", {"gpu/cuda", "tests/gpu", "bench"}},
      {"immintrin.h", {"cpu_experts/simd", "cpu_experts/kernels", "gpu/host", "runtime/topology"}},
      {"omp.h", {"cpu_experts", "gpu/host"}},
      {"catch2/", {"tests"}},
      {"prometheus/", {"server/metrics"}},
      {"openssl/", {"server", "tests/server"}},
  };
  for (const SourceFile& file : read_source_files()) {
    for (const Include& include : includes_of(file)) {
      for (const Rule& rule : rules) {
        if (include.quoted || !include.target.starts_with(rule.prefix)) continue;
        INFO(file.path << ":" << include.line_number << ": <" << include.target << ">");
        CHECK(is_within_any(file.path, rule.folders));
      }
    }
  }
}

TEST_CASE("every header is included by somebody", "[tidy]") {
  const std::vector<SourceFile> files = read_source_files();
  std::set<std::string> included;
  for (const SourceFile& file : files) {
    for (const Include& include : includes_of(file)) {
      if (include.quoted && include.target != file.path) included.insert(include.target);
    }
  }
  for (const SourceFile& file : files) {
    if (!file.path.ends_with(".h") && !file.path.ends_with(".cuh")) continue;
    INFO(file.path << " is dead");
    CHECK(included.contains(file.path));
  }
}

}  // namespace
}  // namespace tandem::tidy
