#include "gpu/cuda/cublaslt_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "gpu/cuda/core/library_search.h"
#include "runtime/base/errors.h"

namespace tandem::gpu::cuda {
namespace {

template <typename Function>
void resolve(const LoadedLibrary& library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library.handle, name));
  if (function == nullptr) {
    throw LoadError(fmt::format("{} has no {}: cuBLAS 13 is needed", library.path, name));
  }
}

CublasLt load() {
  constexpr const char* kFileName = "libcublasLt.so.13";
  const LoadedLibrary library = load_library(
      kFileName, library_candidates(kFileName, search_environment(TANDEM_CUDA_TOOLKIT_DIR)));
  CublasLt lt;
  resolve(library, "cublasLtCreate", lt.create);
  resolve(library, "cublasLtDestroy", lt.destroy);
  resolve(library, "cublasLtGetVersion", lt.get_version);
  resolve(library, "cublasLtMatmul", lt.matmul);
  resolve(library, "cublasLtMatmulAlgoGetHeuristic", lt.matmul_algo_get_heuristic);
  resolve(library, "cublasLtMatmulDescCreate", lt.matmul_desc_create);
  resolve(library, "cublasLtMatmulDescDestroy", lt.matmul_desc_destroy);
  resolve(library, "cublasLtMatmulDescSetAttribute", lt.matmul_desc_set_attribute);
  resolve(library, "cublasLtMatrixLayoutCreate", lt.matrix_layout_create);
  resolve(library, "cublasLtMatrixLayoutDestroy", lt.matrix_layout_destroy);
  resolve(library, "cublasLtMatrixLayoutSetAttribute", lt.matrix_layout_set_attribute);
  resolve(library, "cublasLtMatmulPreferenceCreate", lt.matmul_preference_create);
  resolve(library, "cublasLtMatmulPreferenceDestroy", lt.matmul_preference_destroy);
  resolve(library, "cublasLtMatmulPreferenceSetAttribute", lt.matmul_preference_set_attribute);
  resolve(library, "cublasLtGetStatusString", lt.get_status_string);
  lt.path = library.path;
  return lt;
}

}  // namespace

const CublasLt& CublasLt::instance() {
  static const CublasLt kInstance = load();
  return kInstance;
}

}  // namespace tandem::gpu::cuda
