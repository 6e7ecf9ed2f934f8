// The vocabulary of a synthetic checkpoint: tiktoken.model and tokenizer_config.json in the real
// formats (model/spec.md §4.1, §4.4).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tandem {

inline constexpr int32_t kNumSpecialTokens = 256;  // the block behind the BPE tokens

// Offsets of special tokens inside that block.
inline constexpr int32_t kBosOffset = 0;
inline constexpr int32_t kImEndOffset = 2;
inline constexpr int32_t kPadOffset = 255;

// A small vocabulary of our own: the 256 bytes in the real file's order, then common strings, each
// of two earlier tokens joined.
std::vector<std::string> synthetic_base_tokens();

// tiktoken.model: one "base64 rank" a line.
std::string tiktoken_text(const std::vector<std::string>& base_tokens);

// Number of tokens of a tiktoken.model; throws LoadError naming the line that is wrong.
int32_t count_tiktoken_tokens(const std::filesystem::path& path);

// tokenizer_config.json with Kimi's special tokens at num_base_tokens and above.
std::string tokenizer_config_text(int32_t num_base_tokens);

}  // namespace tandem
