#include "gpu/cuda/core/library_search.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/base/errors.h"

namespace tandem::gpu::cuda {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;

// A folder of its own below the system's temporary one, removed at the end.
struct ScratchDir {
  ScratchDir() {
    std::string name = (fs::temp_directory_path() / "tandem-library-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~ScratchDir() { fs::remove_all(path); }
  fs::path path;
};

TEST_CASE(
    "cuBLAS is looked for on the loader's path, then in toolkits, then in Python environments",
    "[gpu_core]") {
  unsetenv("TANDEM_CUBLAS_DIR");
  const ScratchDir scratch;
  const fs::path packages = scratch.path / "lib/python3.12/site-packages";
  fs::create_directories(packages);
  fs::create_directories(scratch.path / "lib/ruby");
  const std::vector<std::string> expected = {
      "libx.so.13",
      "/toolkit/lib64/libx.so.13",
      "/toolkit/targets/x86_64-linux/lib/libx.so.13",
      packages / "nvidia/cu13/lib/libx.so.13",
      packages / "nvidia/cublas/lib/libx.so.13",
  };
  CHECK(library_candidates("libx.so.13", {.toolkit_dirs = {"/toolkit"},
                                          .python_dirs = {scratch.path, "/no/such/folder"}}) ==
        expected);
}

TEST_CASE("the toolkit that compiled the program is asked before others", "[gpu_core]") {
  setenv("CUDA_HOME", "/home/toolkit", 1);
  const SearchEnvironment with = search_environment("/build/toolkit");
  CHECK(with.toolkit_dirs[0] == "/build/toolkit");
  CHECK(with.toolkit_dirs[1] == "/home/toolkit");
  CHECK(search_environment("").toolkit_dirs[0] == "/home/toolkit");
  unsetenv("CUDA_HOME");
}

TEST_CASE("TANDEM_CUBLAS_DIR is the only place that is tried", "[gpu_core]") {
  setenv("TANDEM_CUBLAS_DIR", "/opt/mine", 1);
  CHECK(library_candidates("libx.so.13", {.toolkit_dirs = {"/toolkit"}, .python_dirs = {"/usr"}}) ==
        std::vector<std::string>{"/opt/mine/libx.so.13"});
  unsetenv("TANDEM_CUBLAS_DIR");
}

TEST_CASE("the first candidate that opens is taken", "[gpu_core]") {
  const LoadedLibrary library = load_library("libm.so.6", {"/no/such/libm.so.6", "libm.so.6"});
  CHECK(library.path == "libm.so.6");
  CHECK(library.handle != nullptr);
}

TEST_CASE("a library that is nowhere, or broken, is an error that names every place",
          "[gpu_core]") {
  const ScratchDir scratch;
  const std::string broken = scratch.path / "libx.so.13";
  std::ofstream(broken)
      << "not a library, but longer than the header of one, which is 64 bytes long";
  try {
    load_library("libx.so.13", {"/no/such/libx.so.13", broken});
    FAIL("opened a library that is not there");
  } catch (const LoadError& error) {
    CHECK_THAT(error.what(), ContainsSubstring("cannot load libx.so.13"));
    CHECK_THAT(error.what(), ContainsSubstring("/no/such/libx.so.13"));
    CHECK_THAT(error.what(), ContainsSubstring(broken));
    CHECK_THAT(error.what(), ContainsSubstring("TANDEM_CUBLAS_DIR"));
  }
}

}  // namespace
}  // namespace tandem::gpu::cuda
