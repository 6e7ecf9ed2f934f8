// The files of pages in a folder.
#pragma once

#include <filesystem>
#include <vector>

namespace tandem::test {

inline std::vector<std::filesystem::path> page_files(const std::filesystem::path& dir) {
  std::vector<std::filesystem::path> paths;
  for (const std::filesystem::directory_entry& entry :
       std::filesystem::recursive_directory_iterator(dir)) {
    if (entry.path().extension() == ".kv") paths.push_back(entry.path());
  }
  return paths;
}

}  // namespace tandem::test
