// What this CPU can do.
#pragma once

#include <string>
#include <vector>

namespace tandem::cli {

// The instruction sets that kernels may use, as the kernel of the system names them.
std::vector<std::string> cpu_isa();

}  // namespace tandem::cli
