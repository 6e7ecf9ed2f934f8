#include "runtime/tokenizer/tokenizer.h"

#include <algorithm>
#include <bitset>
#include <fstream>
#include <limits>
#include <unordered_map>
#include <utility>

#include "runtime/base/errors.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/byte_pair_encoder.h"
#include "runtime/tokenizer/piece_splitter.h"
#include "runtime/tokenizer/vocabulary_files.h"

namespace tandem {
namespace {

// model/spec.md §4.5, in characters.
constexpr size_t kMaxChunkChars = 400'000;
constexpr size_t kMaxRunChars = 25'000;

std::string read_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    throw LoadError(path.string() + ": expected a file, found a folder");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw LoadError(path.string() + ": cannot be opened");
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw LoadError(path.string() + ": cannot be read");
  return content;
}

// Calls `part(text)` for the parts that are encoded alone: cuts every 400,000 characters, and
// before the 25,001st character of a run of white space or of its opposite.
template <typename Part>
void for_each_part(std::string_view text, Part part) {
  if (text.size() <= kMaxRunChars) return part(text);  // no fewer bytes than characters
  size_t part_begin = 0;
  size_t num_chunk_chars = 0;
  size_t num_run_chars = 0;
  bool is_space_run = false;
  for (size_t offset = 0; offset < text.size();) {
    const Utf8Step step = next_utf8(text.substr(offset));
    const bool is_space = is_python_space(step.code_point);
    const bool starts_chunk = num_chunk_chars == kMaxChunkChars;
    const bool same_run = !starts_chunk && num_run_chars > 0 && is_space == is_space_run;
    if (starts_chunk || (same_run && num_run_chars == kMaxRunChars)) {
      part(text.substr(part_begin, offset - part_begin));
      part_begin = offset;
      if (starts_chunk) num_chunk_chars = 0;
      num_run_chars = 0;
    } else if (!same_run) {
      num_run_chars = 0;
    }
    is_space_run = is_space;
    ++num_run_chars;
    ++num_chunk_chars;
    offset += step.num_bytes;
  }
  part(text.substr(part_begin));
}

}  // namespace

struct Tokenizer::Impl {
  struct Added {
    std::string text;
    bool is_skipped = true;
  };

  explicit Impl(const std::vector<std::string>& tokens) : bpe(tokens) {}

  void name_specials(const AddedTokens& names);
  [[nodiscard]] int32_t find_special(std::string_view text) const;
  [[nodiscard]] int32_t special_at(std::string_view text, size_t offset, size_t& size) const;
  void encode_ordinary(std::string_view text, std::vector<int32_t>& ids) const;
  void encode_part(std::string_view text, Specials specials, std::vector<int32_t>& ids) const;

  [[nodiscard]] const Added* added_token(int32_t id) const {
    const int64_t idx = int64_t{id} - bpe.num_tokens();
    return idx < 0 || idx >= std::ssize(added) ? nullptr : &added[static_cast<size_t>(idx)];
  }

  BytePairEncoder bpe;
  PieceSplitter splitter;
  std::vector<Added> added;                           // by id - bpe.num_tokens()
  std::unordered_map<std::string_view, int32_t> ids;  // keys point into `added`
  std::vector<size_t> added_sizes;                    // distinct, longest first
  std::bitset<256> added_first_bytes;
  SpecialTokens named;
};

void Tokenizer::Impl::name_specials(const AddedTokens& names) {
  added.reserve(names.tokens.size());
  for (const AddedToken& token : names.tokens) added.push_back({token.text, token.is_skipped});
  for (size_t idx = 0; idx < added.size(); ++idx) {
    const std::string& text = added[idx].text;
    ids.emplace(text, bpe.num_tokens() + static_cast<int32_t>(idx));
    added_sizes.push_back(text.size());
    added_first_bytes.set(static_cast<uint8_t>(text[0]));
  }
  std::sort(added_sizes.begin(), added_sizes.end(), std::greater<>());
  added_sizes.erase(std::unique(added_sizes.begin(), added_sizes.end()), added_sizes.end());

  named.bos = find_special(names.bos);
  named.eos = find_special(names.eos);
  named.pad = find_special(names.pad);
  named.unk = find_special(names.unk);
  named.eot = find_special("[EOT]");
  named.im_end = find_special("<|im_end|>");
  named.im_user = find_special("<|im_user|>");
  named.im_assistant = find_special("<|im_assistant|>");
  named.im_system = find_special("<|im_system|>");
  named.im_middle = find_special("<|im_middle|>");
  named.tool_calls_section_begin = find_special("<|tool_calls_section_begin|>");
  named.tool_calls_section_end = find_special("<|tool_calls_section_end|>");
  named.tool_call_begin = find_special("<|tool_call_begin|>");
  named.tool_call_argument_begin = find_special("<|tool_call_argument_begin|>");
  named.tool_call_end = find_special("<|tool_call_end|>");
  named.think_begin = find_special("<think>");
  named.think_end = find_special("</think>");
}

int32_t Tokenizer::Impl::find_special(std::string_view text) const {
  const auto entry = ids.find(text);
  return entry == ids.end() ? -1 : entry->second;
}

// The longest special that starts at text[offset]; -1 when there is none.
int32_t Tokenizer::Impl::special_at(std::string_view text, size_t offset, size_t& size) const {
  if (!added_first_bytes.test(static_cast<uint8_t>(text[offset]))) return -1;
  for (const size_t candidate_size : added_sizes) {
    if (candidate_size > text.size() - offset) continue;
    const int32_t id = find_special(text.substr(offset, candidate_size));
    if (id < 0) continue;
    size = candidate_size;
    return id;
  }
  return -1;
}

void Tokenizer::Impl::encode_ordinary(std::string_view text, std::vector<int32_t>& out) const {
  for (size_t offset = 0; offset < text.size();) {
    const size_t piece_size = splitter.next_piece_size(text, offset);
    bpe.encode_piece(text.substr(offset, piece_size), out);
    offset += piece_size;
  }
}

void Tokenizer::Impl::encode_part(std::string_view text,
                                  Specials specials,
                                  std::vector<int32_t>& out) const {
  if (specials == Specials::kAsText) return encode_ordinary(text, out);
  size_t ordinary_begin = 0;
  for (size_t offset = 0; offset < text.size();) {
    size_t size = 0;
    const int32_t id = special_at(text, offset, size);
    if (id < 0) {
      ++offset;
      continue;
    }
    encode_ordinary(text.substr(ordinary_begin, offset - ordinary_begin), out);
    out.push_back(id);
    offset += size;
    ordinary_begin = offset;
  }
  encode_ordinary(text.substr(ordinary_begin), out);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& model_dir, int32_t vocab_size) {
  const std::filesystem::path config_path = model_dir / "tokenizer_config.json";
  std::error_code ignored;
  return parse(read_file(model_dir / "tiktoken.model"),
               std::filesystem::exists(config_path, ignored) ? read_file(config_path) : "",
               vocab_size, model_dir);
}

Tokenizer Tokenizer::parse(std::string_view tiktoken_model,
                           std::string_view tokenizer_config,
                           int32_t vocab_size,
                           const std::filesystem::path& model_dir) {
  const std::vector<std::string> tokens =
      parse_tiktoken_model(tiktoken_model, (model_dir / "tiktoken.model").string());
  const AddedTokens names =
      parse_added_tokens(tokenizer_config, (model_dir / "tokenizer_config.json").string(),
                         static_cast<int32_t>(tokens.size()), vocab_size);
  auto impl = std::make_unique<Impl>(tokens);
  impl->name_specials(names);
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Specials specials) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 1);
  encode_append(text, specials, ids);
  return ids;
}

void Tokenizer::encode_append(std::string_view text,
                              Specials specials,
                              std::vector<int32_t>& ids) const {
  std::string replaced;
  if (!is_valid_utf8(text)) text = replaced = replace_invalid_utf8(text);
  for_each_part(text, [&](std::string_view part) { impl_->encode_part(part, specials, ids); });
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id >= 0 && id < impl_->bpe.num_tokens()) return impl_->bpe.bytes(id);
  const Impl::Added* added = impl_->added_token(id);
  return added == nullptr ? std::string_view() : added->text;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special && is_skipped(id)) continue;
    bytes += token_bytes(id);
  }
  return is_valid_utf8(bytes) ? bytes : replace_invalid_utf8(bytes);
}

bool Tokenizer::is_special(int32_t id) const { return impl_->added_token(id) != nullptr; }

bool Tokenizer::is_skipped(int32_t id) const {
  const Impl::Added* added = impl_->added_token(id);
  return added != nullptr && added->is_skipped;
}

int32_t Tokenizer::num_base_tokens() const { return impl_->bpe.num_tokens(); }

int32_t Tokenizer::vocab_size() const {
  return impl_->bpe.num_tokens() + static_cast<int32_t>(impl_->added.size());
}

const SpecialTokens& Tokenizer::specials() const { return impl_->named; }

int32_t Tokenizer::find_special(std::string_view text) const { return impl_->find_special(text); }

}  // namespace tandem
