// The residual of a step on one device, and what is still to be added to it: sums that the CPU's
// experts leave in host memory are taken in by the next norm, in the pass that it makes anyway.
#pragma once

#include <cstdint>
#include <span>

#include "gpu/ops.h"
#include "offload/workspace.h"

namespace tandem::offload {

// residual += what is pending; normed = rms_norm(residual)
void norm_residual(
    gpu::Ops& ops, std::span<const bf16> weight, float eps, int64_t num_rows, Workspace& workspace);

// residual += what is pending: for others that read it.
void settle_residual(gpu::Ops& ops, int64_t num_rows, Workspace& workspace);

}  // namespace tandem::offload
