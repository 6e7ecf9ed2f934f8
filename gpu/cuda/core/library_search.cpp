#include "gpu/cuda/core/library_search.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "runtime/base/errors.h"

namespace tandem::gpu::cuda {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// lib/python3.*/{site,dist}-packages below a root; Debian's own has dist-packages right in python3.
std::vector<fs::path> package_dirs(const fs::path& root) {
  std::vector<fs::path> found;
  std::error_code failed;
  for (const fs::path& lib : {root / "lib", root / "local/lib"}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(lib, failed)) {
      if (!entry.path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"}) {
        const fs::path dir = entry.path() / packages;
        if (fs::is_directory(dir, failed)) found.push_back(dir);
      }
    }
  }
  return found;
}

}  // namespace

SearchEnvironment search_environment(const std::string& build_toolkit_dir) {
  SearchEnvironment environment;
  if (!build_toolkit_dir.empty()) environment.toolkit_dirs.push_back(build_toolkit_dir);
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const std::string dir = variable(name); !dir.empty())
      environment.toolkit_dirs.push_back(dir);
  }
  environment.toolkit_dirs.insert(environment.toolkit_dirs.end(),
                                  {"/usr/local/cuda", "/usr/local/cuda-13", "/opt/cuda"});
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const std::string dir = variable(name); !dir.empty())
      environment.python_dirs.push_back(dir);
  }
  if (const std::string home = variable("HOME"); !home.empty()) {
    environment.python_dirs.push_back(home + "/.local");
  }
  environment.python_dirs.insert(environment.python_dirs.end(),
                                 {"/usr", "/usr/local", "/opt/venv"});
  return environment;
}

std::vector<std::string> library_candidates(const std::string& file_name,
                                            const SearchEnvironment& environment) {
  if (const std::string dir = variable("TANDEM_CUBLAS_DIR"); !dir.empty()) {
    return {dir + "/" + file_name};
  }
  std::vector<std::string> candidates{file_name};
  for (const std::string& toolkit : environment.toolkit_dirs) {
    for (const char* lib : {"lib64", "targets/x86_64-linux/lib"}) {
      candidates.push_back(toolkit + "/" + lib + "/" + file_name);
    }
  }
  for (const std::string& root : environment.python_dirs) {
    for (const fs::path& packages : package_dirs(root)) {
      for (const char* lib : {"nvidia/cu13/lib", "nvidia/cublas/lib"}) {
        candidates.push_back(packages / lib / file_name);
      }
    }
  }
  return candidates;
}

LoadedLibrary load_library(const std::string& file_name,
                           const std::vector<std::string>& candidates) {
  std::string tried;
  for (const std::string& candidate : candidates) {
    if (void* handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      return {.handle = handle, .path = candidate};
    }
    const char* reason = dlerror();
    tried += fmt::format("\n  {}", reason == nullptr ? candidate.c_str() : reason);
  }
  throw LoadError(
      fmt::format("cannot load {}; tried:{}\ninstall cuBLAS 13 (a CUDA 13 toolkit, or `pip install "
                  "nvidia-cublas`) "
                  "or name its folder in TANDEM_CUBLAS_DIR",
                  file_name, tried));
}

}  // namespace tandem::gpu::cuda
