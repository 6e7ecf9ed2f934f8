#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "runtime/base/errors.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "server/cli/commands.h"
#include "server/cli/terminal.h"

namespace tandem::cli {
namespace {

// A few hundred megabytes: beyond the caches of most machines, K2's own head sizes.
ModelConfig small_config() {
  ModelConfig config = k2_thinking_config();
  config.hidden_size = 1024;
  config.num_hidden_layers = 8;
  config.intermediate_size = 2048;
  config.moe_intermediate_size = 512;
  config.n_routed_experts = 64;
  config.num_experts_per_tok = 8;
  config.num_attention_heads = 8;
  config.q_lora_rank = 384;
  config.vocab_size = 4096;
  config.max_position_embeddings = 32768;
  return config;
}

}  // namespace

ModelConfig preset_config(const std::string& name) {
  if (name == "tiny") return tiny_k2_config();
  if (name == "small") return small_config();
  if (name == "k2") return k2_thinking_config();
  throw ConfigError("--preset " + name + ": expected tiny, small or k2");
}

int run_make_checkpoint(const MakeCheckpointOptions& options) {
  std::error_code ec;
  if (!options.force && std::filesystem::exists(options.dir, ec) &&
      !std::filesystem::is_empty(options.dir, ec))
    throw ConfigError(options.dir + ": exists and is not empty (--force writes over it)");
  SyntheticOptions synthetic;
  synthetic.config = options.config;
  synthetic.seed = options.seed;
  synthetic.tiktoken_model = options.vocab_path;
  synthetic.overwrite = options.force;
  const ModelConfig config = synthetic_config(synthetic);
  fmt::print(
      "{}: {} layers ({} dense), hidden_size {}, {} routed experts of {}, {} a token, vocabulary "
      "{}\n{} to write, random weights (seed {})\n",
      options.dir, config.num_hidden_layers, config.num_hidden_layers - config.num_moe_layers(),
      config.hidden_size, config.n_routed_experts, config.moe_intermediate_size,
      config.num_experts_per_tok, format_count(config.vocab_size),
      format_size(synthetic_checkpoint_size_bytes(config)), options.seed);
  std::fflush(stdout);
  ProgressBar bar(stderr, "writing");
  write_synthetic_checkpoint(options.dir, synthetic,
                             [&](const Progress& progress) { bar.update(progress); });
  bar.finish();
  fmt::print("Written. Try: tandem check {}\n", options.dir);
  return 0;
}

}  // namespace tandem::cli
