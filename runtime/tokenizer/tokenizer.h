// Kimi's byte-level BPE (model/spec.md §4): tiktoken.model + tokenizer_config.json of a checkpoint
// folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// Ids of the tokens that the chat format and the parser know by name; -1 when the vocabulary lacks
// one.
struct SpecialTokens {
  int32_t bos = -1, eos = -1, pad = -1, unk = -1, eot = -1;
  int32_t im_end = -1, im_user = -1, im_assistant = -1, im_system = -1, im_middle = -1;
  int32_t tool_calls_section_begin = -1, tool_calls_section_end = -1;
  int32_t tool_call_begin = -1, tool_call_argument_begin = -1, tool_call_end = -1;
  int32_t think_begin = -1, think_end = -1;
};

class Tokenizer {
 public:
  // Throws LoadError naming file, line and what was expected. Names come from added_tokens_decoder,
  // else from spec §4.4. `vocab_size` of config.json bounds the ids of the reserved block.
  static Tokenizer load(const std::filesystem::path& model_dir, int32_t vocab_size);
  // The same from the files' contents ("" for no tokenizer_config.json); `model_dir` is what errors
  // name.
  static Tokenizer parse(std::string_view tiktoken_model,
                         std::string_view tokenizer_config,
                         int32_t vocab_size,
                         const std::filesystem::path& model_dir);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  enum class Specials { kAsText, kAsTokens };
  // Thread-safe. Invalid UTF-8 is read as U+FFFD. The chunking of spec §4.5 is part of it.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text, Specials specials) const;
  void encode_append(std::string_view text, Specials specials, std::vector<int32_t>& ids) const;

  // Bytes of one token (a special gives its literal text); empty for an id outside the vocabulary.
  [[nodiscard]] std::string_view token_bytes(int32_t id) const;
  // All bytes joined, invalid UTF-8 replaced by U+FFFD. skip_special leaves out tokens flagged
  // special.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  [[nodiscard]] bool is_special(int32_t id) const;  // any added token (markers included)
  [[nodiscard]] bool is_skipped(
      int32_t id) const;                          // flagged special:true, left out by skip_special
  [[nodiscard]] int32_t num_base_tokens() const;  // BPE tokens; specials follow
  [[nodiscard]] int32_t vocab_size() const;
  [[nodiscard]] const SpecialTokens& specials() const;
  [[nodiscard]] int32_t find_special(std::string_view text) const;  // -1 when there is none

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
