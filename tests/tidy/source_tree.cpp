#include "tests/tidy/source_tree.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <string_view>

namespace tandem::tidy {
namespace fs = std::filesystem;

fs::path source_root() { return TANDEM_SOURCE_DIR; }

std::vector<SourceFile> read_source_files() {
  constexpr std::array kFolders = {"runtime", "cpu_experts", "gpu",  "offload",
                                   "server",  "tests",       "bench"};
  constexpr std::array<std::string_view, 4> kExtensions = {".h", ".cpp", ".cu", ".cuh"};
  std::vector<SourceFile> files;
  for (const char* folder : kFolders) {
    for (const auto& entry : fs::recursive_directory_iterator(source_root() / folder)) {
      const std::string extension = entry.path().extension().string();
      if (std::find(kExtensions.begin(), kExtensions.end(), extension) == kExtensions.end())
        continue;
      const fs::path relative = fs::relative(entry.path(), source_root());
      SourceFile file{.path = relative.generic_string(),
                      .folder = relative.parent_path().generic_string(),
                      .lines = {}};
      std::ifstream stream(entry.path());
      for (std::string line; std::getline(stream, line);) file.lines.push_back(std::move(line));
      files.push_back(std::move(file));
    }
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

std::vector<Include> includes_of(const SourceFile& file) {
  std::vector<Include> includes;
  for (size_t line_idx = 0; line_idx < file.lines.size(); ++line_idx) {
    const std::string& line = file.lines[line_idx];
    if (!line.starts_with("#include ")) continue;
    const size_t open = line.find_first_of("\"<");
    if (open == std::string::npos) continue;
    const bool quoted = line[open] == '"';
    const size_t close = line.find(quoted ? '"' : '>', open + 1);
    if (close == std::string::npos) continue;
    includes.push_back({.target = line.substr(open + 1, close - open - 1),
                        .quoted = quoted,
                        .line_number = static_cast<int>(line_idx) + 1});
  }
  return includes;
}

}  // namespace tandem::tidy
