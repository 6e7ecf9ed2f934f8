// What our kernels ask of a model besides widths that are multiples of 8.
#pragma once

#include <cstdint>

#include "gpu/ops.h"

namespace tandem::gpu::cuda {

// Throws LoadError for a model that the kernels are not for, naming field, value and what is
// expected. max_shared_size_bytes: what a CTA may have on the card.
void check_model(const OpsLimits& limits, const MlaShape& shape, int64_t max_shared_size_bytes);

}  // namespace tandem::gpu::cuda
