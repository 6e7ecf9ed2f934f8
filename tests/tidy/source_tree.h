// The project's own source files as text, for the tests of house style.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tandem::tidy {

struct SourceFile {
  std::string path;    // from the root: "runtime/base/bf16.h"
  std::string folder;  // "runtime/base"
  std::vector<std::string> lines;
};

std::filesystem::path source_root();

// Every .h, .cpp, .cu, .cuh of the seven top-level folders, sorted by path.
std::vector<SourceFile> read_source_files();

struct Include {
  std::string target;  // what stands between the quotes or brackets
  bool quoted = false;
  int line_number = 0;
};
std::vector<Include> includes_of(const SourceFile& file);

}  // namespace tandem::tidy
