// The packed form of experts under this folder's own names; runtime/model/expert_layout.h defines
// it, since gpu/ reads it too.
#pragma once

#include "runtime/model/expert_layout.h"

namespace tandem::cpu_experts {
using namespace expert_layout;  // NOLINT(google-build-using-namespace)
}  // namespace tandem::cpu_experts
