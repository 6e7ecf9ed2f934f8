#include "runtime/model/synthetic_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>

#include "runtime/base/errors.h"
#include "runtime/model/checkpoint_layout.h"
#include "runtime/model/config_writer.h"
#include "runtime/model/shard_writer.h"
#include "runtime/model/synthetic_values.h"
#include "runtime/model/synthetic_vocabulary.h"

namespace tandem {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kSpareSizeBytes = 64 << 20;  // index, configuration, file system

int32_t count_base_tokens(const SyntheticOptions& options) {
  return options.tiktoken_model.empty() ? static_cast<int32_t>(synthetic_base_tokens().size())
                                        : count_tiktoken_tokens(options.tiktoken_model);
}

ModelConfig settled_config(ModelConfig config, int32_t num_base_tokens) {
  config.vocab_size = std::max(config.vocab_size, num_base_tokens + kNumSpecialTokens);
  config.bos_token_id = num_base_tokens + kBosOffset;
  config.pad_token_id = num_base_tokens + kPadOffset;
  config.eos_token_ids = {num_base_tokens + kImEndOffset};
  return ModelConfig::parse(config_text(config));
}

// Values of unit variance in, unit variance out: a uniform weight of amplitude a has the variance
// a^2 / 3. What is added to the residual stream is small enough that all layers together add one.
class Values {
 public:
  Values(const ModelConfig& config, uint64_t seed)
      : seed_(seed),
        is_tied_(config.tie_word_embeddings),
        residual_gain_(1.0f / std::sqrt(2.0f * static_cast<float>(config.num_hidden_layers))) {}

  ShardTensor tensor(const ExpectedTensor& expected) const {
    ShardTensor result;
    result.name = expected.name;
    result.dtype = expected.dtype;
    result.shape = expected.shape;
    const uint64_t key = synthetic_key(seed_, expected.name);
    if (expected.name.ends_with(".weight_shape")) {
      return result;  // `fill` is set by the caller, who knows the shape
    }
    const ValueRange range = value_range(expected);
    result.fill = [key, range, dtype = expected.dtype](std::span<std::byte> out,
                                                       int64_t offset_bytes) {
      if (dtype == DType::kBF16) {
        fill_synthetic_bf16({reinterpret_cast<bf16*>(out.data()), out.size() / sizeof(bf16)}, key,
                            offset_bytes, range);
      } else if (dtype == DType::kF32) {
        fill_synthetic_f32({reinterpret_cast<float*>(out.data()), out.size() / sizeof(float)}, key,
                           offset_bytes, range);
      } else {
        fill_synthetic_bits(out, key, offset_bytes);  // all 16 codes, equally often
      }
    };
    return result;
  }

 private:
  [[nodiscard]] float gain(const ExpectedTensor& expected) const {
    if (expected.kind == TensorKind::kLmHead) return 2.0f;  // logits that differ
    const bool adds_to_residual = expected.name.find(".o_proj.") != std::string::npos ||
                                  expected.name.find(".down_proj.") != std::string::npos;
    return adds_to_residual ? residual_gain_ : 1.0f;
  }
  [[nodiscard]] ValueRange value_range(const ExpectedTensor& expected) const {
    const float sqrt_3 = std::sqrt(3.0f);
    const auto width = static_cast<float>(expected.shape.back());
    if (expected.kind == TensorKind::kNorms) return {1.0f, 0.2f};
    if (expected.accepts_bf16) return {0.05f, 0.05f};  // e_score_correction_bias
    if (expected.kind == TensorKind::kEmbedding && !is_tied_) return {0.0f, sqrt_3};
    if (expected.name.ends_with(".weight_scale")) {
      // Codes uniform on -8..7 have the mean square 21.5; the row has 32 weights a scale.
      const float center = gain(expected) / std::sqrt(21.5f * 32.0f * width);
      return {center, 0.25f * center};
    }
    return {0.0f, gain(expected) * sqrt_3 / std::sqrt(width)};
  }

  uint64_t seed_;
  bool is_tied_;
  float residual_gain_;
};

// Tensors of one shard; `rows, cols` of a weight_shape come from its packed tensor just before it.
class ShardCollector {
 public:
  explicit ShardCollector(const Values& values) : values_(values) {}
  void operator()(const ExpectedTensor& expected) {
    if (expected.name.ends_with(".weight_packed")) {
      rows_ = static_cast<int32_t>(expected.shape[0]);
      cols_ = static_cast<int32_t>(expected.shape[1] * 8);
    }
    tensors.push_back(values_.tensor(expected));
    if (expected.name.ends_with(".weight_shape")) {
      tensors.back().fill = [shape = std::array{rows_, cols_}](std::span<std::byte> out,
                                                               int64_t offset_bytes) {
        std::ranges::copy(std::as_bytes(std::span(shape)).subspan(offset_bytes, out.size()),
                          out.begin());
      };
    }
  }
  std::vector<ShardTensor> tensors;

 private:
  const Values& values_;
  int32_t rows_ = 0;
  int32_t cols_ = 0;
};

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) throw LoadError(fmt::format("{}: cannot write", path.string()));
}

bool is_shard_name(const std::string& name) {
  return name.starts_with("model-") &&
         (name.ends_with(".safetensors") || name.ends_with(".safetensors.partial"));
}

// Makes an empty folder, or empties one of what an earlier checkpoint left.
void prepare_folder(const fs::path& dir, bool overwrite) {
  std::error_code ec;
  if (fs::exists(dir, ec) && !fs::is_directory(dir, ec)) {
    throw LoadError(fmt::format("{}: exists and is not a folder", dir.string()));
  }
  fs::create_directories(dir, ec);
  if (ec) throw LoadError(fmt::format("{}: cannot create: {}", dir.string(), ec.message()));
  if (fs::is_empty(dir, ec)) return;
  if (ec) throw LoadError(fmt::format("{}: cannot list: {}", dir.string(), ec.message()));
  if (!overwrite) {
    throw LoadError(
        fmt::format("{}: exists and is not empty (overwriting is an option)", dir.string()));
  }
  std::vector<fs::path> old_files;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, ec)) {
    const std::string name = entry.path().filename().string();
    if (is_shard_name(name) || name == "model.safetensors.index.json") {
      old_files.push_back(entry.path());
    }
  }
  for (const fs::path& path : old_files) {
    if (!fs::remove(path, ec)) {
      throw LoadError(fmt::format("{}: cannot remove: {}", path.string(), ec.message()));
    }
  }
}

void check_disk_space(const fs::path& dir, int64_t size_bytes) {
  std::error_code ec;
  const fs::space_info space = fs::space(dir, ec);
  if (ec) throw LoadError(fmt::format("{}: free space unknown: {}", dir.string(), ec.message()));
  const auto needed = static_cast<uintmax_t>(size_bytes + kSpareSizeBytes);
  if (space.available < needed) {
    throw LoadError(fmt::format("{}: {:.2f} GiB needed on disk, {:.2f} GiB free", dir.string(),
                                static_cast<double>(needed) / (1 << 30),
                                static_cast<double>(space.available) / (1 << 30)));
  }
}

std::string index_text(const std::map<std::string, std::string>& shard_of, int64_t size_bytes) {
  std::string text = fmt::format(
      "{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{\n", size_bytes);
  bool is_first = true;
  for (const auto& [name, shard] : shard_of) {
    text += fmt::format("{}    \"{}\": \"{}\"", is_first ? "" : ",\n", name, shard);
    is_first = false;
  }
  return text + "\n  }\n}\n";
}

}  // namespace

ModelConfig k2_thinking_config() {
  ModelConfig config;
  config.model_type = "kimi_k2";
  config.hidden_size = 7168;
  config.num_hidden_layers = 61;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 18432;
  config.moe_intermediate_size = 2048;
  config.n_routed_experts = 384;
  config.num_experts_per_tok = 8;
  config.n_shared_experts = 1;
  config.routed_scaling_factor = 2.827f;
  config.num_attention_heads = 64;
  config.q_lora_rank = 1536;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  config.vocab_size = 163840;
  config.max_position_embeddings = 262144;
  config.rope_theta = 50000.0f;
  config.rope_scaling = RopeScaling{.factor = 64.0f,
                                    .original_max_position_embeddings = 4096,
                                    .beta_fast = 1.0f,
                                    .beta_slow = 1.0f,
                                    .mscale = 1.0f,
                                    .mscale_all_dim = 1.0f};
  config.rms_norm_eps = 1e-5f;
  config.experts_int4 = true;
  config.eos_token_ids = {163586};
  config.bos_token_id = 163584;
  config.pad_token_id = 163839;
  return config;
}

ModelConfig tiny_k2_config() {
  ModelConfig config = k2_thinking_config();
  config.hidden_size = 128;
  config.num_hidden_layers = 3;
  config.intermediate_size = 256;
  config.moe_intermediate_size = 64;
  config.n_routed_experts = 16;
  config.num_experts_per_tok = 4;
  config.num_attention_heads = 4;
  config.q_lora_rank = 64;
  config.kv_lora_rank = 32;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 32;
  config.vocab_size = 2048;
  config.max_position_embeddings = 8192;
  return config;
}

ModelConfig synthetic_config(const SyntheticOptions& options) {
  return settled_config(options.config, count_base_tokens(options));
}

int64_t synthetic_checkpoint_size_bytes(const ModelConfig& config) {
  SyntheticOptions options;
  options.config = config;
  const ModelConfig settled = synthetic_config(options);
  int64_t size_bytes = 0;
  visit_all_tensors(settled,
                    [&](const ExpectedTensor& tensor) { size_bytes += tensor.size_bytes(); });
  return size_bytes;
}

void write_synthetic_checkpoint(const fs::path& dir,
                                const SyntheticOptions& options,
                                const ProgressFn& progress) {
  const int32_t num_base_tokens = count_base_tokens(options);
  const ModelConfig config = settled_config(options.config, num_base_tokens);
  const int64_t total_size_bytes = synthetic_checkpoint_size_bytes(config);
  prepare_folder(dir, options.overwrite);
  check_disk_space(dir, total_size_bytes);

  if (options.tiktoken_model.empty()) {
    write_text(dir / "tiktoken.model", tiktoken_text(synthetic_base_tokens()));
  } else if (std::error_code ec;
             !fs::equivalent(options.tiktoken_model, dir / "tiktoken.model", ec)) {
    fs::copy_file(options.tiktoken_model, dir / "tiktoken.model",
                  fs::copy_options::overwrite_existing, ec);
    if (ec) {
      throw LoadError(fmt::format("{}: cannot copy to {}: {}", options.tiktoken_model.string(),
                                  dir.string(), ec.message()));
    }
  }
  write_text(dir / "tokenizer_config.json", tokenizer_config_text(num_base_tokens));

  // As the real layout: one shard a layer, the last one holds embeddings, norm and head.
  const Values values(config, options.seed);
  const int32_t num_shards = config.num_hidden_layers + 1;
  std::map<std::string, std::string> shard_of;
  ShardProgress written{progress, 0, total_size_bytes};
  for (int32_t shard_idx = 0; shard_idx < num_shards; ++shard_idx) {
    ShardCollector shard(values);
    if (shard_idx < config.num_hidden_layers) {
      visit_layer_tensors(config, shard_idx, std::ref(shard));
    } else {
      visit_outer_tensors(config, std::ref(shard));
    }
    const std::string name =
        fmt::format("model-{:05}-of-{:06}.safetensors", shard_idx + 1, num_shards);
    for (const ShardTensor& tensor : shard.tensors) shard_of[tensor.name] = name;
    write_shard(dir / name, std::move(shard.tensors), written);
  }
  write_text(dir / "model.safetensors.index.json", index_text(shard_of, total_size_bytes));
  write_text(dir / "generation_config.json", generation_config_text(config));
  write_text(dir / "config.json", config_text(config));
}

}  // namespace tandem
