// Where cuBLASLt may lie: nothing links it (550 MB), it is loaded at run time.
#pragma once

#include <string>
#include <vector>

namespace tandem::gpu::cuda {

// A shared library opened by dlopen, for the life of the process.
struct LoadedLibrary {
  void* handle = nullptr;
  std::string path;
};

// What the search depends on.
struct SearchEnvironment {
  std::vector<std::string> toolkit_dirs;  // /usr/local/cuda, $CUDA_HOME
  std::vector<std::string> python_dirs;   // roots of Python environments: $VIRTUAL_ENV, /usr
};
// Of this machine; `build_toolkit_dir`, that of the toolkit that compiled the program, comes first
// unless it is "".
SearchEnvironment search_environment(const std::string& build_toolkit_dir);

// The names to try, in order: what $TANDEM_CUBLAS_DIR names alone where it is set, else the
// loader's path, toolkits (lib64, targets), Python environments (site-packages and dist-packages:
// nvidia/cu13/lib, nvidia/cublas/lib).
std::vector<std::string> library_candidates(const std::string& file_name,
                                            const SearchEnvironment& environment);

// Opens the first that opens; throws LoadError that names every candidate that was tried and what
// to install.
LoadedLibrary load_library(const std::string& file_name,
                           const std::vector<std::string>& candidates);

}  // namespace tandem::gpu::cuda
