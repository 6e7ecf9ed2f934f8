#include "runtime/model/synthetic_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <string_view>

#include "runtime/base/errors.h"
#include "runtime/memory/mapped_file.h"

namespace tandem {

namespace {

// In the order of their ranks; every one is two earlier tokens joined.
constexpr auto kMerges = std::to_array<std::string_view>({
    "  ",   "    ",  " t",   "in",   "he",     " a",    "re",  "on",   "er",    " the", "at",
    "or",   "en",    "it",   "is",   " s",     " w",    " o",  " c",   "es",    "an",   "nd",
    " and", "ou",    "ing",  " to",  " of",    " in",   " is", "ed",   "al",    "le",   " b",
    " p",   " f",    " m",   " d",   " h",     "ar",    "st",  "ll",   " th",   "ion",  " y",
    " you", "ent",   " be",  " re",  "ly",     " I",    " T",  "The",  " that", " it",  " for",
    " on",  "ver",   "\n\n", "as",   "ic",     "me",    "ro",  "se",   "us",    "ur",   "et",
    "om",   "ow",    "th",   "ha",   "ay",     "ation", " l",  " n",   " g",    " e",   " r",
    " st",  " he",   " ha",  " we",  " no",    " not",  " me", " li",  " an",   " as",  " at",
    " wh",  "ut",    " but", "ter",  "ers",    "ate",   "ain", "00",   "10",    "20",   "==",
    "--",   "()",    "{\"",  "\":",  "\",",    "id",    "ity", "ment", "wh",    "what", "He",
    "llo",  "Hello", "ld",   "orld", " world",
});

struct SpecialToken {
  int32_t offset;
  std::string_view text;
  bool is_special;  // the flag of the file: left out when decoding without specials
};
constexpr std::array kSpecialTokens = {
    SpecialToken{kBosOffset, "[BOS]", true},
    SpecialToken{1, "[EOS]", true},
    SpecialToken{kImEndOffset, "<|im_end|>", true},
    SpecialToken{3, "<|im_user|>", true},
    SpecialToken{4, "<|im_assistant|>", true},
    SpecialToken{6, "<|start_header_id|>", true},
    SpecialToken{7, "<|end_header_id|>", true},
    SpecialToken{9, "[EOT]", true},
    SpecialToken{10, "<|im_system|>", true},
    SpecialToken{11, "<|tool_calls_section_begin|>", false},
    SpecialToken{12, "<|tool_calls_section_end|>", false},
    SpecialToken{13, "<|tool_call_begin|>", false},
    SpecialToken{14, "<|tool_call_argument_begin|>", false},
    SpecialToken{15, "<|tool_call_end|>", false},
    SpecialToken{17, "<|im_middle|>", true},
    SpecialToken{22, "<think>", false},
    SpecialToken{23, "</think>", false},
    SpecialToken{254, "[UNK]", true},
    SpecialToken{kPadOffset, "[PAD]", true},
};

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(std::string_view bytes) {
  std::string text;
  for (size_t begin = 0; begin < bytes.size(); begin += 3) {
    const std::string_view part = bytes.substr(begin, 3);
    uint32_t word = 0;
    for (size_t idx = 0; idx < 3; ++idx) {
      word = word << 8 | (idx < part.size() ? static_cast<unsigned char>(part[idx]) : 0u);
    }
    for (size_t idx = 0; idx < 4; ++idx) {
      text += idx <= part.size() ? kBase64[word >> (18 - 6 * idx) & 63] : '=';
    }
  }
  return text;
}

bool is_base64(std::string_view text) {
  const size_t end = std::min(text.find('='), text.size());
  return !text.empty() && text.size() % 4 == 0 && text.size() - end <= 2 &&
         text.substr(0, end).find_first_not_of(kBase64) == std::string_view::npos &&
         text.substr(end).find_first_not_of('=') == std::string_view::npos;
}

}  // namespace

std::vector<std::string> synthetic_base_tokens() {
  std::vector<std::string> tokens;
  // GPT-2's order: the printable bytes first.
  const auto is_printable = [](int byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
  };
  for (const bool printable : {true, false}) {
    for (int byte = 0; byte < 256; ++byte) {
      if (is_printable(byte) == printable) tokens.emplace_back(1, static_cast<char>(byte));
    }
  }
  tokens.insert(tokens.end(), kMerges.begin(), kMerges.end());
  return tokens;
}

std::string tiktoken_text(const std::vector<std::string>& base_tokens) {
  std::string text;
  for (size_t rank = 0; rank < base_tokens.size(); ++rank) {
    text += fmt::format("{} {}\n", base64(base_tokens[rank]), rank);
  }
  return text;
}

int32_t count_tiktoken_tokens(const std::filesystem::path& path) {
  const MappedFile file(path);
  std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  int32_t num_tokens = 0;
  while (!text.empty()) {
    const size_t line_end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, line_end);
    text.remove_prefix(std::min(line_end + 1, text.size()));
    const size_t space = line.find(' ');
    int32_t rank = -1;
    const char* const line_last = line.data() + line.size();
    if (space != std::string_view::npos && is_base64(line.substr(0, space))) {
      const auto [end, error] = std::from_chars(line.data() + space + 1, line_last, rank);
      if (error != std::errc() || end != line_last) rank = -1;
    }
    if (rank != num_tokens) {
      throw LoadError(fmt::format("{}: line {} is '{}', expected base64, a space and the rank {}",
                                  path.string(), num_tokens + 1, line.substr(0, 80), num_tokens));
    }
    ++num_tokens;
  }
  if (num_tokens < 256) {
    throw LoadError(
        fmt::format("{}: {} tokens, expected the 256 bytes at least", path.string(), num_tokens));
  }
  return num_tokens;
}

std::string tokenizer_config_text(int32_t num_base_tokens) {
  boost::json::object added;
  boost::json::array additional;
  for (const SpecialToken& token : kSpecialTokens) {
    added[std::to_string(num_base_tokens + token.offset)] = {
        {"content", token.text}, {"lstrip", false},      {"normalized", false},
        {"rstrip", false},       {"single_word", false}, {"special", token.is_special}};
    if (token.text.starts_with("<|im_")) additional.emplace_back(token.text);
  }
  const boost::json::object root = {
      {"added_tokens_decoder", added}, {"additional_special_tokens", additional},
      {"bos_token", "[BOS]"},          {"clean_up_tokenization_spaces", false},
      {"eos_token", "[EOS]"},          {"model_max_length", 1000000000000000019884624838656.0},
      {"pad_token", "[PAD]"},          {"tokenizer_class", "TikTokenTokenizer"},
      {"unk_token", "[UNK]"}};
  return boost::json::serialize(root) + "\n";
}

}  // namespace tandem
