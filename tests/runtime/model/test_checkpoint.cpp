#include "runtime/model/checkpoint.h"

#include <algorithm>
#include <boost/json.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <functional>

#include "runtime/base/errors.h"
#include "runtime/model/checkpoint_layout.h"
#include "runtime/model/checkpoint_report.h"
#include "runtime/model/int4_encoder.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "tests/runtime/model/safetensors_builder.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

using Catch::Matchers::ContainsSubstring;
using test::TempDir;

std::filesystem::path golden_dir(const std::string& name) {
  return std::filesystem::path(TANDEM_SOURCE_DIR) / "tests/data/goldens" / name;
}

// A small checkpoint as one file, of zeros, whose tensors a test can change before writing.
class SmallCheckpoint {
 public:
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };
  SmallCheckpoint() : text_(test::read_file(golden_dir("grouped_router") / "config.json")) {
    visit_all_tensors(ModelConfig::parse(text_), [&](const ExpectedTensor& expected) {
      tensors[expected.name] = {std::string(dtype_name(expected.dtype)), expected.shape,
                                std::string(static_cast<size_t>(expected.size_bytes()), '\0')};
    });
  }
  // Writes and returns the folder.
  const std::filesystem::path& write(size_t shift_bytes = 0) {
    test::SafetensorsBuilder builder;
    for (const auto& [name, tensor] : tensors) {
      std::string shape;
      for (const int64_t dimension : tensor.shape) {
        if (!shape.empty()) shape += ", ";
        shape += std::to_string(dimension);
      }
      builder.add(name, tensor.dtype, shape, tensor.bytes);
    }
    test::write_file(dir_.path() / "model.safetensors", builder.file(shift_bytes));
    test::write_file(dir_.path() / "config.json", text_);
    test::write_file(dir_.path() / "tiktoken.model", "IQ== 0\n");
    return dir_.path();
  }
  std::map<std::string, Tensor> tensors;

 private:
  std::string text_;
  TempDir dir_;
};

std::string open_error(const std::filesystem::path& dir) {
  try {
    Checkpoint::open(dir);
  } catch (const LoadError& error) {
    return error.what();
  }
  return "no error";
}

const std::string kExpert = "model.layers.1.mlp.experts.3.";

TEST_CASE("every golden checkpoint opens, foreign tensors and all", "[checkpoint]") {
  const std::string name =
      GENERATE("k2_thinking", "k2_5_nested", "moonlight", "grouped_router", "real_head");
  const Checkpoint checkpoint = Checkpoint::open(golden_dir(name));
  const ModelConfig& config = checkpoint.config();
  INFO(name);
  CHECK(config.experts_int4 == (name != "moonlight"));
  CHECK(checkpoint.embed_tokens().rows == config.vocab_size);
  CHECK(checkpoint.lm_head().data != checkpoint.embed_tokens().data);
  CHECK(checkpoint.norm().size() == static_cast<size_t>(config.hidden_size));
  const LayerTensors dense = checkpoint.layer(0);
  CHECK(dense.mlp.gate_proj.rows == config.intermediate_size);
  CHECK(dense.gate.data == nullptr);
  const LayerTensors moe = checkpoint.layer(config.num_hidden_layers - 1);
  CHECK((moe.q_proj.data != nullptr) == (name == "moonlight"));
  CHECK((moe.q_b_proj.data != nullptr) == (name != "moonlight"));
  CHECK(moe.gate.rows == config.n_routed_experts);
  CHECK(moe.shared_experts.down_proj.cols == config.shared_intermediate_size());
  CHECK(std::ranges::any_of(moe.e_score_correction_bias, [](float bias) { return bias != 0.0f; }));
  CHECK(checkpoint.dense_size_bytes() > 0);
  const int64_t num_weights = int64_t{3} * config.hidden_size * config.moe_intermediate_size *
                              config.n_routed_experts * config.num_moe_layers();
  CHECK(checkpoint.resident_expert_size_bytes() * 16 == num_weights * 9);  // 4.5 bits each
}

TEST_CASE("every one of the 16 codes occurs in the golden experts and is a view of the file",
          "[checkpoint]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("k2_thinking"));
  Checkpoint::ExpertScratch scratch;
  const ExpertTensors expert = checkpoint.expert(1, 0, scratch);
  std::vector<int> counts(16);
  for (int64_t row_idx = 0; row_idx < expert.gate_proj.packed.rows; ++row_idx) {
    for (const uint8_t byte : expert.gate_proj.packed.row(row_idx)) {
      ++counts[byte & 15];
      ++counts[byte >> 4];
    }
  }
  CHECK(std::ranges::all_of(counts, [](int count) { return count > 0; }));
  const TensorInfo* const info =
      checkpoint.index().find("model.layers.1.mlp.experts.0.gate_proj.weight_packed");
  REQUIRE(info != nullptr);
  CHECK(static_cast<const void*>(expert.gate_proj.packed.data) ==
        checkpoint.index().bytes(*info).data());
}

TEST_CASE("BF16 experts come quantised, as the encoder does it", "[checkpoint]") {
  const Checkpoint checkpoint = Checkpoint::open(golden_dir("moonlight"));
  Checkpoint::ExpertScratch scratch;
  const ExpertTensors expert = checkpoint.expert(2, 5, scratch);
  const MlpTensors stored = checkpoint.bf16_expert(2, 5);
  const auto check = [](const Int4Matrix& matrix, MatrixView<const bf16> weights) {
    REQUIRE(matrix.out_features() == weights.rows);
    REQUIRE(matrix.in_features() == weights.cols);
    std::vector<float> decoded(static_cast<size_t>(weights.cols));
    for (int64_t row_idx = 0; row_idx < weights.rows; ++row_idx) {
      decode_int4_row(matrix, row_idx, decoded);
      for (int64_t col_idx = 0; col_idx < weights.cols; ++col_idx) {
        // Half a step, and the largest weight's scale rounded to BF16: 7 * 2^-9 of a step.
        const float step = matrix.scale(row_idx, col_idx / 32).to_float();
        REQUIRE(std::abs(decoded[col_idx] - weights(row_idx, col_idx).to_float()) <=
                step * (0.5f + 7.0f / 512.0f));
      }
    }
  };
  check(expert.gate_proj, stored.gate_proj);
  check(expert.up_proj, stored.up_proj);
  check(expert.down_proj, stored.down_proj);
}

TEST_CASE("a BF16 expert that is not finite is an error naming the tensor", "[checkpoint]") {
  const TempDir dir;
  ModelConfig config = ModelConfig::load(golden_dir("moonlight"));
  write_synthetic_checkpoint(dir.path(), {.config = config, .tiktoken_model = {}}, nullptr);
  const std::string name = "model.layers.1.mlp.experts.2.up_proj.weight";
  std::filesystem::path shard;
  int64_t offset = 0;
  {
    const Checkpoint checkpoint = Checkpoint::open(dir.path());
    const TensorInfo* const info = checkpoint.index().find(name);
    REQUIRE(info != nullptr);
    shard = checkpoint.index().shards()[info->shard_idx];
    offset = info->file_offset_bytes + info->size_bytes - 2;
  }
  std::string content = test::read_file(shard);
  content[offset] = '\x80';
  content[offset + 1] = '\x7f';  // infinity
  test::write_file(shard, content);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  Checkpoint::ExpertScratch scratch;
  CHECK_NOTHROW(checkpoint.expert(1, 1, scratch));
  CHECK_THROWS_WITH(checkpoint.expert(1, 2, scratch), ContainsSubstring(name));
}

TEST_CASE("what is missing or misshapen is named with expected and actual", "[checkpoint]") {
  struct Case {
    std::function<void(SmallCheckpoint&)> change;
    std::string message;
  };
  using Tensors = SmallCheckpoint;
  const std::vector<Case> cases = {
      {[](Tensors& c) { c.tensors.erase("lm_head.weight"); },
       "tensor 'lm_head.weight' is missing, expected BF16 [256, 64]"},
      {[](Tensors& c) { c.tensors.erase(kExpert + "up_proj.weight_scale"); },
       "tensor '" + kExpert + "up_proj.weight_scale' is missing, expected BF16 [32, 2]"},
      {[](Tensors& c) {
         std::swap(c.tensors["model.layers.0.mlp.up_proj.weight"].shape[0],
                   c.tensors["model.embed_tokens.weight"].shape[0]);
         std::swap(c.tensors["model.layers.0.mlp.up_proj.weight"].bytes,
                   c.tensors["model.embed_tokens.weight"].bytes);
       },
       "tensor 'model.layers.0.mlp.up_proj.weight' is BF16 [256, 64], expected BF16 [64, 64]"},
      {[](Tensors& c) {
         c.tensors["model.norm.weight"].shape = {64, 1};
       },
       "tensor 'model.norm.weight' is BF16 [64, 1], expected BF16 [64]"},
      {[](Tensors& c) { c.tensors["model.norm.weight"].dtype = "F16"; },
       "tensor 'model.norm.weight' is F16 [64], expected BF16 [64]"},
      {[](Tensors& c) { c.tensors[kExpert + "gate_proj.weight_packed"].dtype = "F32"; },
       "tensor '" + kExpert + "gate_proj.weight_packed' is F32 [32, 8], expected I32 [32, 8]"},
      {[](Tensors& c) {
         c.tensors["model.layers.1.mlp.gate.e_score_correction_bias"].dtype = "I32";
       },
       "e_score_correction_bias' is I32 [16], expected F32 [16]"},
      {[](Tensors& c) {
         c.tensors[kExpert + "up_proj.weight"] = {"BF16", {0}, ""};
         c.tensors.erase(kExpert + "up_proj.weight_packed");
       },
       "config.json's quantization_config says INT4"},
  };
  for (const Case& one : cases) {
    SmallCheckpoint checkpoint;
    one.change(checkpoint);
    const std::filesystem::path& dir = checkpoint.write();
    CHECK_THAT(open_error(dir), ContainsSubstring(one.message));
    const CheckpointReport report = check_checkpoint(dir);
    CHECK_FALSE(report.ok());
    CHECK_THAT(format_report(report), ContainsSubstring(one.message));
  }
}

TEST_CASE("weight_shape is never trusted, whatever its type and content", "[checkpoint]") {
  SmallCheckpoint checkpoint;
  checkpoint.tensors[kExpert + "up_proj.weight_shape"].bytes = "garbage!";
  checkpoint.tensors[kExpert + "down_proj.weight_shape"] = {"I64", {2}, std::string(16, '\xff')};
  checkpoint.tensors[kExpert + "gate_proj.weight_shape"] = {"U8", {1, 3}, "xyz"};
  checkpoint.tensors.erase("model.layers.1.mlp.experts.4.up_proj.weight_shape");
  const Checkpoint opened = Checkpoint::open(checkpoint.write());
  Checkpoint::ExpertScratch scratch;
  CHECK(opened.expert(1, 3, scratch).up_proj.out_features() == 32);
  CHECK(check_checkpoint(opened.dir()).ok());
}

TEST_CASE("the router bias may be F32, BF16 or absent", "[checkpoint]") {
  const std::string name = "model.layers.1.mlp.gate.e_score_correction_bias";
  SmallCheckpoint checkpoint;
  std::string bytes;
  for (int idx = 0; idx < 16; ++idx) bytes += std::string("\x80\x3f", 2);  // 1.0
  checkpoint.tensors[name] = {"BF16", {16}, bytes};
  CHECK(Checkpoint::open(checkpoint.write()).layer(1).e_score_correction_bias ==
        std::vector<float>(16, 1.0f));
  checkpoint.tensors.erase(name);
  CHECK(Checkpoint::open(checkpoint.write()).layer(1).e_score_correction_bias ==
        std::vector<float>(16, 0.0f));
}

TEST_CASE("a file with unaligned data gives the same experts", "[checkpoint]") {
  SmallCheckpoint checkpoint;
  std::string& scales = checkpoint.tensors[kExpert + "up_proj.weight_scale"].bytes;
  for (size_t idx = 0; idx < scales.size(); ++idx) scales[idx] = static_cast<char>(idx);
  for (const size_t shift_bytes : {0, 1}) {
    const Checkpoint opened = Checkpoint::open(checkpoint.write(shift_bytes));
    Checkpoint::ExpertScratch scratch;
    const ExpertTensors expert = opened.expert(1, 3, scratch);
    CHECK(reinterpret_cast<uintptr_t>(expert.up_proj.scale.data) % alignof(bf16) == 0);
    CHECK(expert.up_proj.scale(0, 0).bits == 0x0100);
    CHECK(expert.up_proj.scale(31, 1).bits == 0x7f7e);
    CHECK(opened.layer(0).o_proj(0, 0).bits == 0);
  }
}

TEST_CASE("tied embeddings need no lm_head", "[checkpoint]") {
  const TempDir dir;
  ModelConfig config = ModelConfig::load(golden_dir("k2_thinking"));
  config.tie_word_embeddings = true;
  write_synthetic_checkpoint(dir.path(), {.config = config, .tiktoken_model = {}}, nullptr);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  CHECK(checkpoint.index().find("lm_head.weight") == nullptr);
  CHECK(checkpoint.lm_head().data == checkpoint.embed_tokens().data);
}

TEST_CASE("the prefix is taken from the tensors where config.json misleads", "[checkpoint]") {
  SmallCheckpoint checkpoint;
  std::map<std::string, SmallCheckpoint::Tensor> prefixed;
  for (auto& [name, tensor] : checkpoint.tensors) prefixed["language_model." + name] = tensor;
  checkpoint.tensors = prefixed;
  CHECK(Checkpoint::open(checkpoint.write()).config().tensor_prefix == "language_model.");
}

TEST_CASE("a report of a golden folder adds up and finds only the vocabulary missing",
          "[checkpoint]") {
  const std::string name =
      GENERATE("k2_thinking", "k2_5_nested", "moonlight", "grouped_router", "real_head");
  const CheckpointReport report = check_checkpoint(golden_dir(name));
  INFO(format_report(report));
  CHECK(report.config_ok);
  CHECK(report.num_shards == 2);
  REQUIRE(report.problems.size() == 1);
  CHECK_THAT(report.problems[0], ContainsSubstring("tiktoken.model: missing"));
  const TensorIndex index = TensorIndex::open(golden_dir(name));
  int64_t total = 0;
  for (const auto& [tensor_name, info] : index.tensors()) total += info.size_bytes;
  int64_t reported = 0;
  for (const auto& [kind, size_bytes] : report.size_bytes_by_kind) reported += size_bytes;
  CHECK(reported == total);
  CHECK(report.size_bytes_by_kind.at("ignored") > 0);  // rotary_emb.inv_freq
  CHECK(report.num_tensors == static_cast<int64_t>(index.tensors().size()));
  const bool says_quantised = format_report(report).find("will be quantised") != std::string::npos;
  CHECK(says_quantised == (name == "moonlight"));
}

TEST_CASE("a report goes on behind every problem", "[checkpoint]") {
  CHECK_FALSE(check_checkpoint("/nonexistent/folder").ok());
  const TempDir dir;
  for (const auto& entry : std::filesystem::directory_iterator(golden_dir("k2_thinking"))) {
    std::filesystem::copy(entry.path(), dir.path());
  }
  // A truncated shard is one problem, not one for every tensor in it.
  const auto shard = dir.path() / "model-00002-of-000002.safetensors";
  test::write_file(shard, test::read_file(shard).substr(0, 100000));
  test::write_file(dir.path() / "tiktoken.model", "IQ== 0\n");
  CheckpointReport report = check_checkpoint(dir.path());
  INFO(format_report(report));
  REQUIRE(report.problems.size() == 1);
  CHECK_THAT(report.problems[0], ContainsSubstring("truncated file?"));
  // Without a configuration the shards are still read.
  std::filesystem::remove(dir.path() / "config.json");
  report = check_checkpoint(dir.path());
  CHECK(report.problems.size() == 2);
  CHECK_FALSE(report.config_ok);
  CHECK(report.num_shards == 1);
}

}  // namespace
}  // namespace tandem
