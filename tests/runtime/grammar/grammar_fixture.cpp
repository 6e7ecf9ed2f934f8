#include "tests/runtime/grammar/grammar_fixture.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "runtime/grammar/length_tracker.h"

namespace tandem::tests {
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

bool derives(const SchemaGrammar& grammar, std::string_view text) {
  static TextGrammarCompiler compiler(byte_tokenizer(), kByteVocabSize, {});
  static const auto token_lengths =
      std::make_shared<const TokenLengths>(byte_tokenizer(), kByteVocabSize);
  const auto compiled = compiler.compile_ebnf(grammar.ebnf);
  if (!compiled) FAIL(compiled.error().message << "\n" << grammar.ebnf);
  TextMatcher matcher(*compiled);
  LengthTracker lengths(std::make_shared<const LengthPlan>(grammar.lengths), token_lengths);
  std::vector<uint32_t> mask((kByteVocabSize + 31) / 32);
  for (const char byte : text) {
    const auto id = static_cast<int32_t>(static_cast<unsigned char>(byte));
    matcher.fill(mask);
    const bool is_allowed = (mask[id / 32] >> (id % 32) & 1u) != 0;
    const bool is_accepted = matcher.accept(id);
    if (is_allowed != is_accepted) FAIL("mask and matcher differ at byte " << id);
    if (!is_accepted) return false;
    lengths.narrow(mask);
    if ((mask[id / 32] >> (id % 32) & 1u) == 0) return false;
    lengths.accept(id);
  }
  return matcher.is_complete();
}

}  // namespace tandem::tests
