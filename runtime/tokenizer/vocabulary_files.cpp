#include "runtime/tokenizer/vocabulary_files.h"

#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "runtime/base/errors.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr int32_t kRealNumBaseTokens = 163584;

struct NamedToken {
  int32_t offset;  // from the number of BPE tokens
  std::string_view text;
  bool is_skipped;
};

// model/spec.md §4.4. The media tokens of K2.5 and later are left out: those checkpoints name
// theirs.
constexpr std::array<NamedToken, 19> kDefaultNames{{
    {0, "[BOS]", true},
    {1, "[EOS]", true},
    {2, "<|im_end|>", true},
    {3, "<|im_user|>", true},
    {4, "<|im_assistant|>", true},
    {6, "<|start_header_id|>", true},
    {7, "<|end_header_id|>", true},
    {9, "[EOT]", true},
    {10, "<|im_system|>", true},
    {11, "<|tool_calls_section_begin|>", false},
    {12, "<|tool_calls_section_end|>", false},
    {13, "<|tool_call_begin|>", false},
    {14, "<|tool_call_argument_begin|>", false},
    {15, "<|tool_call_end|>", false},
    {17, "<|im_middle|>", true},
    {22, "<think>", false},
    {23, "</think>", false},
    {254, "[UNK]", true},
    {255, "[PAD]", true},
}};

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw LoadError(path + ": " + what);
}

[[noreturn]] void fail_line(const std::string& path, size_t line_idx, const std::string& what) {
  throw LoadError(path + ":" + std::to_string(line_idx + 1) + ": " + what);
}

int base64_digit(char letter) {
  if (letter >= 'A' && letter <= 'Z') return letter - 'A';
  if (letter >= 'a' && letter <= 'z') return letter - 'a' + 26;
  if (letter >= '0' && letter <= '9') return letter - '0' + 52;
  if (letter == '+') return 62;
  if (letter == '/') return 63;
  return -1;
}

// False unless `text` is padded base64 of at least one byte.
bool decode_base64(std::string_view text, std::string& bytes) {
  bytes.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  size_t num_padding = 0;
  while (num_padding < 2 && text[text.size() - 1 - num_padding] == '=') ++num_padding;
  uint32_t bits = 0;
  for (size_t idx = 0; idx < text.size(); ++idx) {
    const int digit = idx + num_padding >= text.size() ? 0 : base64_digit(text[idx]);
    if (digit < 0) return false;
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    if (idx % 4 != 3) continue;
    bytes.push_back(static_cast<char>(bits >> 16));
    bytes.push_back(static_cast<char>(bits >> 8));
    bytes.push_back(static_cast<char>(bits));
    bits = 0;
  }
  bytes.resize(bytes.size() - num_padding);
  return true;
}

void parse_token_line(std::string_view line,
                      const std::string& path,
                      size_t line_idx,
                      size_t expected_rank,
                      std::string& bytes) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) {
    fail_line(path, line_idx, "expected `base64 rank`, found no space");
  }
  if (!decode_base64(line.substr(0, space), bytes)) {
    fail_line(path, line_idx,
              "expected base64 of a token's bytes, found `" +
                  std::string(line.substr(0, std::min<size_t>(space, 64))) + "`");
  }
  const std::string_view rank_text = line.substr(space + 1);
  size_t rank = 0;
  const auto [end, error] =
      std::from_chars(rank_text.data(), rank_text.data() + rank_text.size(), rank);
  if (error != std::errc() || end != rank_text.data() + rank_text.size() || rank_text.empty() ||
      rank != expected_rank) {
    fail_line(path, line_idx,
              "expected rank " + std::to_string(expected_rank) + ", found `" +
                  std::string(rank_text.substr(0, 64)) + "`");
  }
}

// tokenizer_config.json writes "bos_token": "[BOS]" or {"content": "[BOS]", ...}.
void read_token_name(const json::object& config, std::string_view key, std::string& name) {
  const json::value* value = config.if_contains(key);
  if (value == nullptr) return;
  if (const json::object* object = value->if_object()) value = object->if_contains("content");
  if (value != nullptr && value->is_string()) name = std::string(value->get_string());
}

void read_decoder(const json::object& decoder,
                  const std::string& path,
                  int32_t num_base_tokens,
                  std::vector<AddedToken>& tokens) {
  for (const auto& [key, value] : decoder) {
    const std::string field = "added_tokens_decoder[\"" + std::string(key) + "\"]";
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const int64_t id_end = num_base_tokens + static_cast<int64_t>(tokens.size());
    if (error != std::errc() || end != key.data() + key.size() || id < num_base_tokens ||
        id >= id_end) {
      fail(path, field + ": expected an id from " + std::to_string(num_base_tokens) +
                     " (number of BPE tokens) to " + std::to_string(id_end - 1) +
                     " (vocab_size - 1)");
    }
    const json::object* entry = value.if_object();
    const json::value* content = entry == nullptr ? nullptr : entry->if_contains("content");
    if (content == nullptr || !content->is_string() || content->get_string().empty()) {
      fail(path, field + ".content: expected a string that is not empty");
    }
    const json::value* special = entry->if_contains("special");
    if (special != nullptr && !special->is_bool()) fail(path, field + ".special: expected a bool");
    AddedToken& token = tokens[static_cast<size_t>(id - num_base_tokens)];
    token.text = std::string(content->get_string());
    token.is_skipped = special != nullptr && special->get_bool();
  }
}

// `only_thinking`: a file of the real vocabulary may predate the thinking models (K2-Instruct's 17
// entries); the ids of <think> and </think> are the same in all.
void add_default_names(bool only_thinking, std::vector<AddedToken>& tokens) {
  for (const NamedToken& named : kDefaultNames) {
    const auto idx = static_cast<size_t>(named.offset);
    const bool is_thinking = named.text == "<think>" || named.text == "</think>";
    if (idx >= tokens.size() || !tokens[idx].text.empty()) continue;
    if (only_thinking && !is_thinking) continue;
    bool is_taken = false;
    for (const AddedToken& token : tokens) is_taken = is_taken || token.text == named.text;
    if (!is_taken) tokens[idx] = {std::string(named.text), named.is_skipped};
  }
}

void name_reserved_and_check(const std::string& path,
                             int32_t num_base_tokens,
                             std::vector<AddedToken>& tokens) {
  std::unordered_map<std::string_view, int32_t> id_of;
  for (size_t idx = 0; idx < tokens.size(); ++idx) {
    const int32_t id = num_base_tokens + static_cast<int32_t>(idx);
    AddedToken& token = tokens[idx];
    if (token.text.empty()) token = {"<|reserved_token_" + std::to_string(id) + "|>", true};
    const auto [entry, is_new] = id_of.emplace(token.text, id);
    if (!is_new) {
      fail(path, "added_tokens_decoder: `" + token.text + "` names both " +
                     std::to_string(entry->second) + " and " + std::to_string(id));
    }
  }
}

}  // namespace

std::vector<std::string> parse_tiktoken_model(std::string_view file, const std::string& path) {
  std::vector<std::string> tokens;
  std::unordered_set<std::string> seen;
  std::string bytes;
  size_t num_single_bytes = 0;
  size_t blob_size_bytes = 0;
  for (size_t line_idx = 0; !file.empty(); ++line_idx) {
    const size_t line_size = std::min(file.find('\n'), file.size());
    std::string_view line = file.substr(0, line_size);
    file.remove_prefix(std::min(line_size + 1, file.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    parse_token_line(line, path, line_idx, tokens.size(), bytes);
    if (!seen.insert(bytes).second) {
      fail_line(path, line_idx, "this token's bytes have a lower rank already");
    }
    if (bytes.size() == 1) ++num_single_bytes;
    blob_size_bytes += bytes.size();
    tokens.push_back(bytes);
  }
  if (num_single_bytes != 256) {
    fail(path, "expected all 256 single bytes among the tokens, found " +
                   std::to_string(num_single_bytes));
  }
  if (blob_size_bytes > std::numeric_limits<uint32_t>::max()) fail(path, "more than 4 GiB");
  return tokens;
}

AddedTokens parse_added_tokens(std::string_view file,
                               const std::string& path,
                               int32_t num_base_tokens,
                               int32_t vocab_size) {
  if (vocab_size < num_base_tokens) {
    fail(path, "vocab_size " + std::to_string(vocab_size) + " is less than the " +
                   std::to_string(num_base_tokens) + " tokens of tiktoken.model");
  }
  AddedTokens added;
  added.tokens.resize(static_cast<size_t>(vocab_size - num_base_tokens));
  bool has_names = false;
  if (!file.empty()) {
    json::error_code error;
    const json::value config = json::parse({file.data(), file.size()}, error);
    if (error) fail(path, "expected JSON: " + error.message());
    if (!config.is_object()) fail(path, "expected a JSON object");
    const json::object& object = config.get_object();
    if (const json::value* decoder = object.if_contains("added_tokens_decoder")) {
      if (!decoder->is_object()) fail(path, "added_tokens_decoder: expected an object");
      has_names = !decoder->get_object().empty();
      read_decoder(decoder->get_object(), path, num_base_tokens, added.tokens);
      if (has_names && added.tokens.front().text.empty()) {
        fail(path, "added_tokens_decoder: expected the first id to be " +
                       std::to_string(num_base_tokens) +
                       ", the number of BPE tokens: is tiktoken.model whole?");
      }
    }
    read_token_name(object, "bos_token", added.bos);
    read_token_name(object, "eos_token", added.eos);
    read_token_name(object, "pad_token", added.pad);
    read_token_name(object, "unk_token", added.unk);
  }
  if (!has_names || num_base_tokens == kRealNumBaseTokens) {
    add_default_names(has_names, added.tokens);
  }
  name_reserved_and_check(path, num_base_tokens, added.tokens);
  return added;
}

}  // namespace tandem
