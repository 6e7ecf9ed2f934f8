// The rules of the house that a program can check.
#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tests/tidy/source_tree.h"

namespace tandem::tidy {
namespace {

constexpr size_t kMaxFileLines = 600;
constexpr size_t kMaxFunctionLines = 80;
constexpr size_t kMaxColumns = 100;

// Characters, not bytes: comments may hold a non-ASCII sign.
size_t num_columns(std::string_view line) {
  return static_cast<size_t>(std::count_if(line.begin(), line.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
  }));
}

// Whether a line in column 0 may open a signature: clang-format indents everything else, and
// namespaces not at all.
bool may_open_signature(std::string_view line) {
  constexpr std::array<std::string_view, 11> kOthers = {"}",     "#",         "namespace", "struct",
                                                        "class", "enum",      "union",     "extern",
                                                        "//",    "constexpr", "template"};
  return !line.empty() && std::none_of(kOthers.begin(), kOthers.end(), [&](std::string_view word) {
    return line.starts_with(word);
  });
}

struct Function {
  size_t begin = 0;      // the line that opens the signature, from 0
  size_t num_lines = 0;  // to the brace in column 0
};

std::vector<Function> functions_of(const std::vector<std::string>& lines) {
  std::vector<Function> functions;
  size_t begin = 0;
  bool in_signature = false, has_parameters = false, in_body = false;
  for (size_t line_idx = 0; line_idx < lines.size(); ++line_idx) {
    const std::string& line = lines[line_idx];
    if (in_body) {
      if (!line.starts_with("}")) continue;
      functions.push_back({begin, line_idx - begin + 1});
      in_body = false;
      continue;
    }
    if (!line.starts_with(" ")) {
      begin = line_idx;
      in_signature = may_open_signature(line);
      has_parameters = false;
    }
    has_parameters = has_parameters || line.find('(') != std::string::npos;
    if (!in_signature || !line.ends_with("{")) continue;
    in_signature = false;
    in_body = has_parameters;
  }
  return functions;
}

TEST_CASE("a function is measured from the line that opens its signature", "[tidy]") {
  const std::vector<std::string> lines = {"// Words (with brackets) {",
                                          "const Table kTable = {",
                                          "    {word(1), {",
                                          "    }}};",
                                          "Model::Model(int num_layers,",
                                          "             int num_experts)",
                                          "    : num_layers_(num_layers) {",
                                          "  if (num_experts == 0) {",
                                          "  }",
                                          "}",
                                          "int declared(int a,",
                                          "             int b);",
                                          "int one_line() {",
                                          "}"};
  const std::vector<Function> functions = functions_of(lines);
  REQUIRE(functions.size() == 2);
  CHECK((functions[0].begin == 4 && functions[0].num_lines == 6));
  CHECK((functions[1].begin == 12 && functions[1].num_lines == 2));
}

TEST_CASE("files, functions and lines keep to their limits", "[tidy]") {
  for (const SourceFile& file : read_source_files()) {
    INFO(file.path);
    CHECK(file.lines.size() <= kMaxFileLines);
    for (size_t line_idx = 0; line_idx < file.lines.size(); ++line_idx) {
      const std::string& line = file.lines[line_idx];
      INFO("line " << line_idx + 1);
      CHECK(num_columns(line) <= kMaxColumns);
      CHECK_FALSE(line.ends_with(" "));
      CHECK(line.find('\t') == std::string::npos);
    }
    for (const Function& function : functions_of(file.lines)) {
      INFO("function in line " << function.begin + 1);
      CHECK(function.num_lines <= kMaxFunctionLines);
    }
  }
}

TEST_CASE("no word stands in the sources that the house bans", "[tidy]") {
  struct Ban {
    std::string word;
    std::string_view except;  // a folder in which it is right
  };
  // Spelt in two halves, so that this file does not find itself.
  const auto word = [](const char* head, const char* tail) { return std::string(head) + tail; };
  const std::vector<Ban> bans = {{word("FIX", "ME"), ""},
                                 {word("XX", "X:"), ""},
                                 {word("std::ex", "it("), "server/main.cpp"},
                                 {word("cudaDevice", "Synchronize"), "tests"},
                                 {word("/wo", "rk/"), ""}};
  for (const SourceFile& file : read_source_files()) {
    for (size_t line_idx = 0; line_idx < file.lines.size(); ++line_idx) {
      for (const Ban& ban : bans) {
        if (!ban.except.empty() && file.path.starts_with(ban.except)) continue;
        INFO(file.path << ":" << line_idx + 1 << ": " << ban.word);
        CHECK(file.lines[line_idx].find(ban.word) == std::string::npos);
      }
    }
  }
}

TEST_CASE("headers guard themselves with pragma once and say first what they are", "[tidy]") {
  for (const SourceFile& file : read_source_files()) {
    if (!file.path.ends_with(".h") && !file.path.ends_with(".cuh")) continue;
    INFO(file.path);
    CHECK(std::find(file.lines.begin(), file.lines.end(), "#pragma once") != file.lines.end());
    REQUIRE_FALSE(file.lines.empty());
    CHECK(file.lines.front().starts_with("//"));
  }
}

TEST_CASE("every folder of sources has a README", "[tidy]") {
  std::set<std::string> folders;
  for (const SourceFile& file : read_source_files()) {
    if (!file.path.starts_with("tests/")) folders.insert(file.folder);
  }
  folders.insert("tests");
  for (const std::string& folder : folders) {
    INFO(folder << "/README.md");
    CHECK(std::filesystem::exists(source_root() / folder / "README.md"));
  }
}

TEST_CASE("every source file is formatted as .clang-format says", "[tidy]") {
  if (std::system("command -v clang-format-14 > /dev/null") != 0) {
    SKIP("needs clang-format-14, the version that the style is pinned to");
  }
  std::string command = "cd '" + source_root().string() + "' && clang-format-14 --dry-run --Werror";
  for (const SourceFile& file : read_source_files()) command += " '" + file.path + "'";
  CHECK(std::system(command.c_str()) == 0);
}

}  // namespace
}  // namespace tandem::tidy
