#include "runtime/model/checkpoint_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <set>

#include "runtime/model/checkpoint.h"
#include "runtime/model/checkpoint_layout.h"

namespace tandem {

namespace {

constexpr const char* kIgnoredKind = "ignored";

void check_config(const std::filesystem::path& model_dir, CheckpointReport& report) {
  try {
    report.config = ModelConfig::load(model_dir);
    report.config_ok = true;
  } catch (const std::exception& error) {
    report.problems.emplace_back(error.what());
  }
}

void check_files(const std::filesystem::path& model_dir, CheckpointReport& report) {
  std::error_code ec;
  if (!std::filesystem::is_directory(model_dir, ec)) return;  // said already
  if (!std::filesystem::is_regular_file(model_dir / "tiktoken.model", ec)) {
    report.problems.push_back(fmt::format("{}: missing, expected the vocabulary",
                                          (model_dir / "tiktoken.model").string()));
  }
  if (!std::filesystem::exists(model_dir / "tokenizer_config.json", ec)) {
    report.notes.emplace_back(
        "no tokenizer_config.json: special tokens get the names of Kimi-K2's own");
  }
  if (!std::filesystem::exists(model_dir / "generation_config.json", ec)) {
    report.notes.emplace_back("no generation_config.json: config.json alone says where to stop");
  }
}

// Expected tensors: each there and right, or a problem; the rest of the folder is "ignored".
void check_tensors(const TensorIndex& index,
                   const IndexProblems& index_problems,
                   CheckpointReport& report) {
  settle_tensor_prefix(index, report.config);
  std::set<std::string_view> used;
  visit_all_tensors(report.config, [&](const ExpectedTensor& expected) {
    const auto place = index.tensors().find(expected.name);
    if (place != index.tensors().end()) {
      used.insert(place->first);
      report.size_bytes_by_kind[std::string(kind_name(expected.kind))] += place->second.size_bytes;
    } else if (index_problems.lost_names.contains(expected.name)) {
      return;  // its shard could not be read, which is one problem and not thousands
    }
    if (const auto problem = find_problem(index, expected)) report.problems.push_back(*problem);
  });
  std::vector<std::string_view> ignored;
  for (const auto& [name, info] : index.tensors()) {
    if (used.contains(name)) continue;
    ignored.push_back(name);
    report.size_bytes_by_kind[kIgnoredKind] += info.size_bytes;
  }
  if (!ignored.empty()) {
    report.notes.push_back(
        fmt::format("{} tensor{} not part of the model and ignored, such as '{}'", ignored.size(),
                    ignored.size() == 1 ? " is" : "s are", ignored.front()));
  }
}

void note_choices(CheckpointReport& report) {
  const ModelConfig& config = report.config;
  if (!config.experts_int4 && config.num_moe_layers() > 0) {
    report.notes.emplace_back(
        "routed experts are BF16: they will be quantised to INT4 (groups of 32) at load");
  }
  if (config.eos_token_ids.empty()) {
    report.notes.emplace_back("neither config.json nor generation_config.json names eos_token_id");
  }
}

std::string size_text(int64_t size_bytes) {
  const auto size = static_cast<double>(size_bytes);
  if (size_bytes >= int64_t{1} << 30) return fmt::format("{:.2f} GiB", size / (1 << 30));
  if (size_bytes >= 1 << 20) return fmt::format("{:.2f} MiB", size / (1 << 20));
  return fmt::format("{:.1f} KiB", size / (1 << 10));
}

std::string config_text(const ModelConfig& config) {
  std::string text;
  const auto line = [&](std::string_view label, const std::string& value) {
    text += fmt::format("  {:<14}{}\n", label, value);
  };
  line("model", config.model_type.empty() ? "(no model_type)" : config.model_type);
  line("layers",
       fmt::format("{} ({} dense, {} with experts), hidden_size {}", config.num_hidden_layers,
                   config.num_hidden_layers - config.num_moe_layers(), config.num_moe_layers(),
                   config.hidden_size));
  line("attention",
       fmt::format("{} heads, q_lora_rank {}, kv_lora_rank {}, head sizes {}+{}/{}",
                   config.num_attention_heads,
                   config.q_lora_rank == 0 ? "none" : std::to_string(config.q_lora_rank),
                   config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim,
                   config.v_head_dim));
  if (config.num_moe_layers() > 0) {
    line("experts", fmt::format("{} routed, {} a token, {} shared, moe_intermediate_size {}",
                                config.n_routed_experts, config.num_experts_per_tok,
                                config.n_shared_experts, config.moe_intermediate_size));
    line("quantisation", config.experts_int4
                             ? "routed experts INT4 (groups of 32, BF16 scales), the rest BF16"
                             : "none: everything BF16");
  }
  line("context", fmt::format("{} tokens, {}", config.max_position_embeddings,
                              config.rope_scaling
                                  ? fmt::format("YaRN factor {:g}", config.rope_scaling->factor)
                                  : "plain RoPE"));
  line("vocabulary", fmt::format("{} tokens", config.vocab_size));
  return text;
}

}  // namespace

CheckpointReport check_checkpoint(const std::filesystem::path& model_dir) {
  CheckpointReport report;
  check_config(model_dir, report);
  try {
    IndexProblems index_problems;
    const TensorIndex index = TensorIndex::open(model_dir, index_problems);
    report.num_tensors = static_cast<int64_t>(index.tensors().size());
    report.num_shards = static_cast<int32_t>(index.shards().size());
    std::ranges::copy(index_problems.messages, std::back_inserter(report.problems));
    if (report.config_ok) check_tensors(index, index_problems, report);
  } catch (const std::exception& error) {
    report.problems.emplace_back(error.what());
  }
  check_files(model_dir, report);
  if (report.config_ok) note_choices(report);
  return report;
}

std::string format_report(const CheckpointReport& report) {
  std::string text;
  if (report.config_ok) text += config_text(report.config);
  text += fmt::format("  {:<14}{} tensors in {} shards\n", "files", report.num_tensors,
                      report.num_shards);
  int64_t total_size_bytes = 0;
  for (const auto& [kind, size_bytes] : report.size_bytes_by_kind) {
    text += fmt::format("    {:<18}{:>14}\n", kind, size_text(size_bytes));
    total_size_bytes += size_bytes;
  }
  if (!report.size_bytes_by_kind.empty()) {
    text += fmt::format("    {:<18}{:>14}  ({} bytes)\n", "total", size_text(total_size_bytes),
                        total_size_bytes);
  }
  for (const std::string& note : report.notes) text += fmt::format("note: {}\n", note);
  for (const std::string& problem : report.problems) text += fmt::format("problem: {}\n", problem);
  text += report.ok() ? "ok: no problem found\n"
                      : fmt::format("{} problem{} found\n", report.problems.size(),
                                    report.problems.size() == 1 ? "" : "s");
  return text;
}

}  // namespace tandem
