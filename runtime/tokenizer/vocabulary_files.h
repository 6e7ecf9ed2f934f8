// The two vocabulary files of a checkpoint folder, parsed and checked (model/spec.md §4.1, 4.4).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// tiktoken.model: one `base64(bytes) SP rank` a line, ranks 0, 1, 2, ... in order. Throws LoadError
// with `path` and line.
std::vector<std::string> parse_tiktoken_model(std::string_view file, const std::string& path);

struct AddedToken {
  std::string text;
  bool is_skipped = true;  // the flag `special`: left out by decode(skip_special)
};

struct AddedTokens {
  std::vector<AddedToken> tokens;  // ids num_base_tokens, num_base_tokens + 1, ... < vocab_size
  std::string bos = "[BOS]", eos = "[EOS]", pad = "[PAD]", unk = "[UNK]";
};

// Names of the ids num_base_tokens .. vocab_size - 1: from added_tokens_decoder of
// tokenizer_config.json ("" when there is no such file), from the table of §4.4 where the file
// names none at all, `<|reserved_token_{id}|>` for the rest. Throws LoadError naming `path` and the
// field.
AddedTokens parse_added_tokens(std::string_view file,
                               const std::string& path,
                               int32_t num_base_tokens,
                               int32_t vocab_size);

}  // namespace tandem
