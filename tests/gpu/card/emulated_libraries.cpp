// What gpu/cuda has from others and an emulated card has not: cuBLASLt has no algorithm for
// anything, so that our own kernels multiply; a test that needs FlashInfer's kernels is skipped,
// visibly.
#include <catch2/catch_test_macros.hpp>

#include "gpu/cuda/cublas_matmul.h"
#include "gpu/cuda/flashinfer/mla_decode.h"
#include "gpu/cuda/flashinfer/mla_prefill.h"

namespace tandem::gpu::cuda {
namespace {
void skip() { SKIP("FlashInfer's kernels do not run on an emulated card"); }
}  // namespace

struct CublasMatmul::Library {};
struct CublasMatmul::Plan {};

CublasMatmul::CublasMatmul(size_t) {}
CublasMatmul::~CublasMatmul() = default;
bool CublasMatmul::run(const MatmulParams&, cudaStream_t) { return false; }
std::string CublasMatmul::description() { return "no cuBLASLt"; }

void launch_flash_mla_decode_hopper(const FlashMlaDecodeParams&, cudaStream_t) { skip(); }
void launch_flash_mla_decode_ampere(const FlashMlaDecodeParams&, cudaStream_t) { skip(); }
void launch_flash_mla_prefill_hopper(const FlashMlaPrefillParams&, cudaStream_t) { skip(); }
void launch_flash_mla_prefill_ampere(const FlashMlaPrefillParams&, cudaStream_t) { skip(); }

}  // namespace tandem::gpu::cuda
