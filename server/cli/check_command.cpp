#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>

#include "runtime/base/errors.h"
#include "runtime/model/checkpoint_report.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/cli/commands.h"

namespace tandem::cli {
namespace {

boost::json::object config_json(const ModelConfig& config) {
  return {{"model_type", config.model_type},
          {"num_hidden_layers", config.num_hidden_layers},
          {"first_k_dense_replace", config.first_k_dense_replace},
          {"hidden_size", config.hidden_size},
          {"n_routed_experts", config.n_routed_experts},
          {"num_experts_per_tok", config.num_experts_per_tok},
          {"n_shared_experts", config.n_shared_experts},
          {"moe_intermediate_size", config.moe_intermediate_size},
          {"num_attention_heads", config.num_attention_heads},
          {"vocab_size", config.vocab_size},
          {"max_position_embeddings", config.max_position_embeddings},
          {"experts_int4", config.experts_int4}};
}

boost::json::object report_json(const CheckpointReport& report) {
  boost::json::object result;
  result["ok"] = report.ok();
  if (report.config_ok) result["config"] = config_json(report.config);
  result["num_tensors"] = report.num_tensors;
  result["num_shards"] = report.num_shards;
  boost::json::object sizes;
  for (const auto& [kind, size_bytes] : report.size_bytes_by_kind) sizes[kind] = size_bytes;
  result["size_bytes_by_kind"] = std::move(sizes);
  result["problems"] = boost::json::value_from(report.problems);
  result["notes"] = boost::json::value_from(report.notes);
  return result;
}

// What the server would not load.
void check_vocabulary(const std::string& dir, CheckpointReport& report) {
  std::error_code ec;
  const auto path = std::filesystem::path(dir) / "tiktoken.model";
  if (!report.config_ok || !std::filesystem::is_regular_file(path, ec)) return;  // said already
  try {
    static_cast<void>(Tokenizer::load(dir, report.config.vocab_size));
  } catch (const LoadError& error) {
    report.problems.emplace_back(error.what());
  }
}

}  // namespace

int run_check(const CheckOptions& options) {
  std::error_code ec;
  if (!std::filesystem::is_directory(options.dir, ec))
    throw ConfigError(options.dir + ": no such folder; expected a checkpoint folder");
  CheckpointReport report = check_checkpoint(options.dir);
  check_vocabulary(options.dir, report);
  if (options.json) {
    fmt::print("{}\n", boost::json::serialize(report_json(report)));
  } else {
    const std::string text = format_report(report);
    fmt::print("{}{}", text, text.empty() || text.back() != '\n' ? "\n" : "");
  }
  return report.ok() ? 0 : 1;
}

}  // namespace tandem::cli
