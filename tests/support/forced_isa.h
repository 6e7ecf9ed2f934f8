// An instruction set that a test asks for.
#pragma once

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "runtime/topology/cpu_isa.h"

namespace tandem::tests {

// TANDEM_CPU_ISA for the life of the object, or as it is for none; skips visibly where this CPU
// lacks the instruction set.
class ForcedIsa {
 public:
  explicit ForcedIsa(std::optional<CpuIsa> isa) {
    if (const char* value = std::getenv(kName)) before_ = value;
    if (!isa) return;
    const std::vector<CpuIsa> supported = supported_isas();
    if (std::find(supported.begin(), supported.end(), *isa) == supported.end()) {
      SKIP("this CPU has no " << isa_name(*isa));
    }
    setenv(kName, std::string(isa_name(*isa)).c_str(), 1);
  }
  ~ForcedIsa() {
    if (before_) {
      setenv(kName, before_->c_str(), 1);
    } else {
      unsetenv(kName);
    }
  }
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;

 private:
  static constexpr const char* kName = "TANDEM_CPU_ISA";
  std::optional<std::string> before_;
};

// What to force where results must not depend on the batch: nothing; but on a CPU with AMX, which
// takes the steps of many tokens and leaves the others to another set, either.
inline std::vector<std::optional<CpuIsa>> batch_independent_isas() {
  if (active_isa() != CpuIsa::kAmxBf16) return {std::nullopt};
  return {CpuIsa::kAvx512Vnni, CpuIsa::kAmxBf16};
}

}  // namespace tandem::tests
