#include "tests/runtime/grammar/grammar_fixture.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>

namespace tandem::tests {
namespace {

std::string all_bytes() {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string lines;
  for (unsigned byte = 0; byte < 256; ++byte) {
    lines += kDigits[byte >> 2];
    lines += kDigits[(byte & 3) << 4];
    lines += "== " + std::to_string(byte) + "\n";
  }
  return lines;
}

}  // namespace

const Tokenizer& byte_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::parse(all_bytes(), "", kByteVocabSize, "bytes");
  return tokenizer;
}

const Tokenizer& demo_tokenizer() {
  const std::filesystem::path dir =
      std::filesystem::path(TANDEM_SOURCE_DIR) / "server" / "demo" / "model";
  static const Tokenizer tokenizer = Tokenizer::load(dir, kDemoVocabSize);
  return tokenizer;
}

std::optional<Tokenizer> published_tokenizer() {
  const char* shared = std::getenv("TANDEM_SHARED_DIR");
  const std::filesystem::path dir =
      shared != nullptr ? std::filesystem::path(shared)
                        : std::filesystem::path(TANDEM_SOURCE_DIR) / ".." / "shared";
  std::error_code ignored;
  if (!std::filesystem::exists(dir / "model" / "tiktoken.model", ignored)) return std::nullopt;
  return Tokenizer::load(dir / "model", kPublishedVocabSize);
}

bool derives(const std::string& ebnf, std::string_view text) {
  static TextGrammarCompiler compiler(byte_tokenizer(), kByteVocabSize, {});
  const auto grammar = compiler.compile_ebnf(ebnf);
  if (!grammar) FAIL(grammar.error().message << "\n" << ebnf);
  TextMatcher matcher(*grammar);
  std::vector<uint32_t> mask((kByteVocabSize + 31) / 32);
  for (const char byte : text) {
    const auto id = static_cast<int32_t>(static_cast<unsigned char>(byte));
    matcher.fill(mask);
    const bool is_allowed = (mask[id / 32] >> (id % 32) & 1u) != 0;
    const bool is_accepted = matcher.accept(id);
    if (is_allowed != is_accepted) FAIL("mask and matcher differ at byte " << id);
    if (!is_accepted) return false;
  }
  return matcher.is_complete();
}

}  // namespace tandem::tests
