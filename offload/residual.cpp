#include "offload/residual.h"

#include <utility>

namespace tandem::offload {

void norm_residual(gpu::Ops& ops,
                   std::span<const bf16> weight,
                   float eps,
                   int64_t num_rows,
                   Workspace& workspace) {
  const PendingSums pending = std::exchange(workspace.pending, {});
  ops.add_rms_norm(pending.views(), workspace.residual.first_rows(num_rows), weight, eps,
                   workspace.normed.first_rows(num_rows));
}

void settle_residual(gpu::Ops& ops, int64_t num_rows, Workspace& workspace) {
  const PendingSums pending = std::exchange(workspace.pending, {});
  ops.add(pending.views(), workspace.residual.first_rows(num_rows));
}

}  // namespace tandem::offload
