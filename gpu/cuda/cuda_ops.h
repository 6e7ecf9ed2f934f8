// A card as a device (gpu/ops.h).
#pragma once

#include <cstdint>
#include <memory>

#include "gpu/ops.h"

namespace tandem::gpu::cuda {

// Throws LoadError where the card or cuBLAS 13 is missing, naming what is.
std::unique_ptr<Ops> make_cuda_ops(int32_t card_idx);

// Device memory that an Ops takes for itself: when it is made, and in reserve(). A card that is not
// there, only thought of, is like the first.
int64_t planned_ops_size_bytes(int32_t card_idx, const OpsLimits& limits, const MlaShape& shape);
// What load_kv_b takes besides the size of kv_b_proj.
int64_t planned_kv_b_extra_size_bytes(const MlaShape& shape);
// Pinned host memory that it takes while weights are uploaded.
int64_t planned_upload_size_bytes();

}  // namespace tandem::gpu::cuda
