// `tandem check DIR`: what a folder holds and every problem found, without stopping at the first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runtime/model/model_config.h"

namespace tandem {

struct CheckpointReport {
  ModelConfig config;  // valid when config_ok
  bool config_ok = false;
  int64_t num_tensors = 0;
  int32_t num_shards = 0;
  std::map<std::string, int64_t>
      size_bytes_by_kind;  // "routed experts", "attention", "dense mlp", "shared experts",
                           // "router", "embedding", "lm_head", "norms", "ignored"
  std::vector<std::string> problems;  // one sentence each: tensor, expected, actual
  std::vector<std::string> notes;     // unknown tensors, BF16 experts that will be quantised, ...
  [[nodiscard]] bool ok() const { return problems.empty(); }
};
CheckpointReport check_checkpoint(const std::filesystem::path& model_dir);
std::string format_report(const CheckpointReport& report);

}  // namespace tandem
