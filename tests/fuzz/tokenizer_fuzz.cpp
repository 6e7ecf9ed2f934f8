// The tokenizer over hostile bytes, as text to encode and as the files of a checkpoint folder.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/byte_vocabulary.h"

namespace tandem {
namespace {

const std::vector<std::string> kMerges = {"ab", "  ", "aaa", "\u4e2d ", "\xF0\x9F"};

void check_text(const Tokenizer& tokenizer, std::string_view text) {
  const std::string valid = replace_invalid_utf8(text);
  for (const auto specials : {Tokenizer::Specials::kAsText, Tokenizer::Specials::kAsTokens}) {
    const std::vector<int32_t> ids = tokenizer.encode(text, specials);
    TANDEM_CHECK(tokenizer.decode(ids) == valid, "decoding gives back the text");
    Utf8Stream stream;
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string shown = stream.push(tokenizer.token_bytes(id));
      TANDEM_CHECK(is_valid_utf8(shown), "no half characters");
      streamed += shown;
    }
    TANDEM_CHECK(streamed + stream.finish() == valid, "streaming gives the same text");
  }
  // The same bytes as ids.
  std::vector<int32_t> ids;
  for (const char byte : text) ids.push_back(static_cast<uint8_t>(byte) * 3 - 5);
  TANDEM_CHECK(is_valid_utf8(tokenizer.decode(ids)), "decode gives UTF-8");
}

void check_files(std::string_view files) {
  const size_t cut = files.find('\0');
  const std::string_view config = cut == std::string_view::npos ? "" : files.substr(cut + 1);
  try {
    Tokenizer::parse(tests::tiktoken_lines(kMerges) + std::string(files.substr(0, cut)), config,
                     600, "fuzz");
  } catch (const LoadError&) {
  }
}

}  // namespace
}  // namespace tandem

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tandem::Tokenizer tokenizer = tandem::tests::small_tokenizer(tandem::kMerges);
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.empty()) return 0;
  if (input[0] == 'F') {
    tandem::check_files(input.substr(1));
  } else {
    tandem::check_text(tokenizer, input);
  }
  return 0;
}
