#include "runtime/model/synthetic_checkpoint.h"

#include <algorithm>
#include <boost/json.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstring>
#include <set>

#include "runtime/base/errors.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/checkpoint_report.h"
#include "runtime/model/config_writer.h"
#include "runtime/model/synthetic_values.h"
#include "runtime/model/synthetic_vocabulary.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

using Catch::Matchers::ContainsSubstring;
using test::TempDir;

// Widths that nothing divides, unlike those of tiny_k2_config().
ModelConfig small_config() {
  ModelConfig config = k2_thinking_config();
  config.hidden_size = 96;
  config.num_hidden_layers = 3;
  config.intermediate_size = 160;
  config.moe_intermediate_size = 64;
  config.n_routed_experts = 12;
  config.num_experts_per_tok = 4;
  config.num_attention_heads = 3;
  config.q_lora_rank = 40;
  config.kv_lora_rank = 48;
  config.qk_nope_head_dim = 24;
  config.qk_rope_head_dim = 8;
  config.v_head_dim = 40;
  config.vocab_size = 0;
  return config;
}

void write(const std::filesystem::path& dir, const ModelConfig& config, uint64_t seed = 1) {
  write_synthetic_checkpoint(
      dir, {.config = config, .seed = seed, .tiktoken_model = {}, .overwrite = false}, nullptr);
}

TEST_CASE("K2-Thinking's real dimensions give the published sizes", "[synthetic]") {
  // Section 7.1: shards of 995,000,320 and 60 times 9,808,554,496 bytes, 4,697,634,816 in the last.
  // 24 bytes an expert are its three weight_shapes.
  CHECK(synthetic_checkpoint_size_bytes(k2_thinking_config()) == 594'205'904'896);
  ModelConfig config = k2_thinking_config();
  config.num_hidden_layers = 2;
  CHECK(synthetic_checkpoint_size_bytes(config) ==
        int64_t{995'000'320} + 9'808'554'496 + 4'697'634'816);
}

TEST_CASE("a synthetic checkpoint is found in order, with every tensor of the layout",
          "[synthetic]") {
  const TempDir dir;
  const auto model_dir = dir.path() / "new" / "model";
  int64_t last_done = 0;
  int64_t total = 0;
  write_synthetic_checkpoint(model_dir, {.config = small_config(), .tiktoken_model = {}},
                             [&](const Progress& progress) {
                               CHECK(progress.done_bytes > last_done);
                               last_done = progress.done_bytes;
                               total = progress.total_bytes;
                             });
  CHECK(last_done == total);
  CHECK(total == synthetic_checkpoint_size_bytes(small_config()));
  const CheckpointReport report = check_checkpoint(model_dir);
  INFO(format_report(report));
  CHECK(report.ok());
  CHECK(report.notes.empty());
  CHECK(report.num_shards == 4);
  CHECK_FALSE(report.size_bytes_by_kind.contains("ignored"));
  const Checkpoint checkpoint = Checkpoint::open(model_dir);
  const auto num_base_tokens = static_cast<int32_t>(synthetic_base_tokens().size());
  CHECK(checkpoint.config().vocab_size == num_base_tokens + 256);
  CHECK(checkpoint.config().eos_token_ids == std::vector<int32_t>{num_base_tokens + 2});
  CHECK(std::filesystem::exists(model_dir / "model-00004-of-000004.safetensors"));
  for (const auto& entry : std::filesystem::directory_iterator(model_dir)) {
    CHECK(entry.path().extension() != ".partial");
  }
  // Layer 1's shard holds layer 1 alone; the last one what is outside the layers.
  for (const auto& [name, info] : checkpoint.index().tensors()) {
    const int32_t expected = name.starts_with("model.layers.")
                                 ? std::stoi(name.substr(std::strlen("model.layers.")))
                                 : 3;
    CHECK(info.shard_idx == expected);
    CHECK(info.file_offset_bytes % dtype_size_bytes(info.dtype) == 0);
  }
}

TEST_CASE("weight_shape tells the truth, and packed codes use all 16 values evenly",
          "[synthetic]") {
  const TempDir dir;
  write(dir.path(), small_config());
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const std::string name = "model.layers.2.mlp.experts.11.";
  for (const auto& [projection, rows, cols] :
       {std::tuple{"gate_proj", 64, 96}, {"up_proj", 64, 96}, {"down_proj", 96, 64}}) {
    const TensorInfo* const info = checkpoint.index().find(name + projection + ".weight_shape");
    REQUIRE(info != nullptr);
    const std::array<int32_t, 2> expected = {rows, cols};
    CHECK(std::memcmp(checkpoint.index().bytes(*info).data(), expected.data(), 8) == 0);
  }
  std::array<int, 16> counts = {};
  Checkpoint::ExpertScratch scratch;
  int num_codes = 0;
  for (int32_t expert_idx = 0; expert_idx < 12; ++expert_idx) {
    const Int4Matrix matrix = checkpoint.expert(1, expert_idx, scratch).up_proj;
    for (int64_t row_idx = 0; row_idx < matrix.packed.rows; ++row_idx) {
      for (const uint8_t byte : matrix.packed.row(row_idx)) {
        ++counts[byte & 15];
        ++counts[byte >> 4];
        num_codes += 2;
      }
    }
  }
  // Binomial: mean n/16, deviation sqrt(n * 15) / 16; six of them.
  const double mean = num_codes / 16.0;
  for (const int count : counts) {
    CHECK(std::abs(count - mean) < 6.0 * std::sqrt(num_codes * 15.0) / 16.0);
  }
}

TEST_CASE("the same seed writes the same bytes, another seed others", "[synthetic]") {
  const TempDir dir;
  write(dir.path() / "a", small_config(), 5);
  write(dir.path() / "b", small_config(), 5);
  write(dir.path() / "c", small_config(), 6);
  const std::string shard = "model-00002-of-000004.safetensors";
  const std::string first = test::read_file(dir.path() / "a" / shard);
  CHECK(first == test::read_file(dir.path() / "b" / shard));
  CHECK(first != test::read_file(dir.path() / "c" / shard));
}

TEST_CASE("every architecture of the family can be written and opened", "[synthetic]") {
  const TempDir dir;
  ModelConfig nested = small_config();
  nested.tensor_prefix = "language_model.";
  write(dir.path() / "nested", nested);
  CHECK(check_checkpoint(dir.path() / "nested").ok());
  CHECK(Checkpoint::open(dir.path() / "nested").config().tensor_prefix == "language_model.");

  ModelConfig moonlight = small_config();
  moonlight.q_lora_rank = 0;
  moonlight.experts_int4 = false;
  moonlight.rope_scaling.reset();
  write(dir.path() / "moonlight", moonlight);
  CHECK(check_checkpoint(dir.path() / "moonlight").ok());

  ModelConfig dense_only = small_config();
  dense_only.num_hidden_layers = 1;
  write(dir.path() / "dense", dense_only);
  CHECK(check_checkpoint(dir.path() / "dense").ok());
}

TEST_CASE("blocks of the writer join without a seam", "[synthetic]") {
  // 4 MiB a block: a layer of several, and one tensor across many.
  const TempDir dir;
  ModelConfig config = small_config();
  config.num_hidden_layers = 1;
  config.intermediate_size = 50001;
  write(dir.path(), config);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto matrix = checkpoint.index().bf16_matrix(name, 50001, 96);
  std::vector<bf16> expected(50001 * 96);
  const float amplitude = std::sqrt(3.0f) / std::sqrt(96.0f);
  fill_synthetic_bf16(expected, synthetic_key(1, name), 0, {0.0f, amplitude});
  CHECK(std::memcmp(matrix.data, expected.data(), expected.size() * sizeof(bf16)) == 0);
}

TEST_CASE("a part of a tensor has the values of the whole, at every step of 8 bytes",
          "[synthetic]") {
  std::vector<bf16> whole(1003);
  fill_synthetic_bf16(whole, 77, 0, {1.0f, 0.25f});
  std::vector<float> whole_f32(517);
  fill_synthetic_f32(whole_f32, 77, 0, {1.0f, 0.25f});
  for (size_t begin = 0; begin < whole.size(); begin += 4) {
    std::vector<bf16> part(whole.size() - begin);
    fill_synthetic_bf16(part, 77, static_cast<int64_t>(begin * sizeof(bf16)), {1.0f, 0.25f});
    REQUIRE(std::equal(part.begin(), part.end(), whole.begin() + begin));
  }
  for (const float value : whole_f32) REQUIRE((value >= 0.75f && value <= 1.25f));
  const auto [low, high] = std::ranges::minmax(whole_f32);
  CHECK(high - low > 0.45f);
}

TEST_CASE("a folder in use is refused unless overwriting is wanted", "[synthetic]") {
  const TempDir dir;
  const auto model_dir = dir.path() / "model";
  ModelConfig deep = small_config();
  deep.num_hidden_layers = 5;
  write(model_dir, deep);
  test::write_file(model_dir / "notes.txt", "mine");
  CHECK_THROWS_WITH(write(model_dir, small_config()), ContainsSubstring("exists and is not empty"));
  CHECK(Checkpoint::open(model_dir).config().num_hidden_layers == 5);
  const SyntheticOptions options{
      .config = small_config(), .seed = 1, .tiktoken_model = {}, .overwrite = true};
  write_synthetic_checkpoint(model_dir, options, nullptr);
  CHECK(check_checkpoint(model_dir).ok());
  CHECK(check_checkpoint(model_dir).num_shards == 4);
  CHECK(test::read_file(model_dir / "notes.txt") == "mine");
  CHECK_FALSE(std::filesystem::exists(model_dir / "model-00006-of-000006.safetensors"));
  CHECK_THROWS_WITH(write(model_dir / "notes.txt", small_config()),
                    ContainsSubstring("is not a folder"));
}

TEST_CASE("a model larger than the disk is refused before a byte is written", "[synthetic]") {
  const TempDir dir;
  ModelConfig config = k2_thinking_config();
  config.num_hidden_layers = 4096;  // 40 TB
  CHECK_THROWS_WITH(write(dir.path() / "huge", config), ContainsSubstring("GiB needed on disk"));
  CHECK(std::filesystem::is_empty(dir.path() / "huge"));
}

TEST_CASE("impossible dimensions are refused by key before anything is written", "[synthetic]") {
  const TempDir dir;
  ModelConfig config = small_config();
  config.num_experts_per_tok = 13;
  CHECK_THROWS_AS(write(dir.path() / "model", config), ConfigError);
  CHECK_FALSE(std::filesystem::exists(dir.path() / "model"));
  CHECK_THROWS_AS(synthetic_checkpoint_size_bytes(config), ConfigError);
}

TEST_CASE("the small vocabulary is bytes in the real order, then joined earlier tokens",
          "[synthetic]") {
  const std::vector<std::string> tokens = synthetic_base_tokens();
  REQUIRE(tokens.size() > 300);
  CHECK(tokens[0] == "!");
  CHECK(tokens[93] == "~");
  CHECK(tokens[94] == "\xa1");
  CHECK(tokens[188] == std::string(1, '\0'));
  CHECK(tokens[220] == " ");
  CHECK(tokens[255] == "\xad");
  std::set<std::string> earlier;
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    const std::string& token = tokens[rank];
    INFO(rank << " '" << token << "'");
    if (rank < 256) {
      REQUIRE(token.size() == 1);
    } else {
      bool can_be_merged = false;
      for (size_t cut = 1; cut < token.size(); ++cut) {
        can_be_merged |=
            earlier.contains(token.substr(0, cut)) && earlier.contains(token.substr(cut));
      }
      CHECK(can_be_merged);
    }
    CHECK(earlier.insert(token).second);
  }
}

TEST_CASE("tiktoken.model is base64 and rank, and counts back", "[synthetic]") {
  const TempDir dir;
  const auto path = dir.path() / "tiktoken.model";
  const std::vector<std::string> tokens = synthetic_base_tokens();
  const std::string text = tiktoken_text(tokens);
  CHECK(text.starts_with("IQ== 0\nIg== 1\n"));  // as the real file begins
  CHECK_THAT(text, ContainsSubstring("ICA= 256\nICAgIA== 257\nIHQ= 258\naW4= 259\n"));
  test::write_file(path, text);
  CHECK(count_tiktoken_tokens(path) == static_cast<int32_t>(tokens.size()));
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"IQ== 0\nIg== 2\n", "line 2"},
      {"IQ== 0\n\nIg== 1\n", "line 2"},
      {"IQ=0\n", "line 1"},
      {"I*== 0\n", "line 1"},
      {"IQ== 0x\n", "line 1"},
      {"IQ== 0\n", "the 256 bytes at least"},
      {"", "0 tokens"}};
  for (const auto& [content, message] : bad) {
    test::write_file(path, content);
    CHECK_THROWS_WITH(count_tiktoken_tokens(path), ContainsSubstring(message));
  }
}

TEST_CASE("a given vocabulary is copied and sets the sizes and special ids", "[synthetic]") {
  const TempDir dir;
  std::vector<std::string> tokens = synthetic_base_tokens();
  for (int idx = 0; idx < 1000; ++idx) tokens.push_back("word" + std::to_string(idx));
  const auto path = dir.path() / "given.model";
  test::write_file(path, tiktoken_text(tokens));
  const auto num_base_tokens = static_cast<int32_t>(tokens.size());
  for (const int32_t extra : {-1, 0, 100}) {  // a vocab_size below, at and above what it needs
    SyntheticOptions options{.config = small_config(), .tiktoken_model = path, .overwrite = true};
    options.config.vocab_size = num_base_tokens + kNumSpecialTokens + extra;
    write_synthetic_checkpoint(dir.path() / "model", options, nullptr);
    const Checkpoint checkpoint = Checkpoint::open(dir.path() / "model");
    CHECK(checkpoint.config().vocab_size ==
          num_base_tokens + kNumSpecialTokens + std::max(extra, 0));
    CHECK(checkpoint.config().pad_token_id == num_base_tokens + 255);
    CHECK(test::read_file(dir.path() / "model" / "tiktoken.model") == test::read_file(path));
  }
  // Again from the copy inside the folder itself.
  const SyntheticOptions again{.config = small_config(),
                               .tiktoken_model = dir.path() / "model" / "tiktoken.model",
                               .overwrite = true};
  write_synthetic_checkpoint(dir.path() / "model", again, nullptr);
  CHECK(test::read_file(dir.path() / "model" / "tiktoken.model") == test::read_file(path));
}

TEST_CASE("tokenizer_config.json names Kimi's specials at their offsets", "[synthetic]") {
  const auto root = boost::json::parse(tokenizer_config_text(163584));
  const auto& added = root.at("added_tokens_decoder").as_object();
  const auto content = [&](const char* token_id) {
    return std::string(added.at(token_id).at("content").as_string());
  };
  CHECK(content("163584") == "[BOS]");
  CHECK(content("163586") == "<|im_end|>");
  CHECK(content("163588") == "<|im_assistant|>");
  CHECK(content("163594") == "<|im_system|>");
  CHECK(content("163595") == "<|tool_calls_section_begin|>");
  CHECK(content("163599") == "<|tool_call_end|>");
  CHECK(content("163601") == "<|im_middle|>");
  CHECK(content("163606") == "<think>");
  CHECK(content("163607") == "</think>");
  CHECK(content("163839") == "[PAD]");
  CHECK(added.at("163586").at("special").as_bool());
  CHECK_FALSE(added.at("163606").at("special").as_bool());
}

}  // namespace
}  // namespace tandem
