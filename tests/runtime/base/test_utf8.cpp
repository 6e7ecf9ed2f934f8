#include "runtime/base/utf8.h"

#include <catch2/catch_test_macros.hpp>
#include <random>

namespace tandem::tests {
namespace {

// U+FFFD once to four times.
constexpr const char* kOnce = "\uFFFD";
constexpr const char* kTwice = "\uFFFD\uFFFD";
constexpr const char* kThrice = "\uFFFD\uFFFD\uFFFD";
constexpr const char* kFourTimes = "\uFFFD\uFFFD\uFFFD\uFFFD";

TEST_CASE("ill-formed bytes are replaced as Python's 'replace' does", "[base][utf8]") {
  // What bytes.decode("utf-8", "replace") of CPython 3.11 gives.
  struct Case {
    std::string bytes;
    std::string text;
  };
  const std::vector<Case> cases = {
      {"abc", "abc"},
      {"\x80", kOnce},
      {"\xC0\x80", kTwice},                // overlong: C0 opens nothing
      {"\xE0\x80\x80", kThrice},           // overlong: 80 cannot follow E0
      {"\xE4\xB8", kOnce},                 // cut off: one maximal subpart
      {"\xE4\xB8x", "\uFFFDx"},            //
      {"\xF0\x9F\x98", kOnce},             //
      {"\xF0\x9F\x98\x80", "\U0001F600"},  //
      {"\xED\xA0\x80", kThrice},           // a surrogate
      {"\xF4\x90\x80\x80", kFourTimes},    // above U+10FFFF
      {"\xF5\x80", kTwice},                //
      {"\xE4\xE4\xB8\xAD", "\uFFFD中"},
      {"a\xFF\xFE"
       "b",
       "a\uFFFD\uFFFDb"},
      {"\xF0\x80\x80\x80", kFourTimes},
  };
  for (const Case& item : cases) {
    INFO("expected " << item.text);
    CHECK(replace_invalid_utf8(item.bytes) == item.text);
    CHECK(is_valid_utf8(item.bytes) == (item.text == item.bytes));
  }
}

TEST_CASE("every code point survives encoding and decoding", "[base][utf8]") {
  for (uint32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point >= 0xD800 && code_point <= 0xDFFF) continue;
    std::string text;
    append_utf8(code_point, text);
    const Utf8Step step = next_utf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter || step.code_point != code_point ||
        step.num_bytes != text.size()) {
      FAIL("code point " << code_point);
    }
  }
}

// Bytes in which ill-formed sequences and whole characters are both common.
std::string random_bytes(std::mt19937& random, size_t num_bytes) {
  static const std::string kBytes(
      "a\x80\xBF\x9F\xA0\x90\x8F\xC2\xC3\xE0\xE4\xED\xEF\xF0\xF4\xF5\xFF\xB8\xAD", 19);
  std::string bytes;
  while (bytes.size() < num_bytes) bytes += kBytes[random() % kBytes.size()];
  return bytes;
}

TEST_CASE("any chunking of a byte stream gives the text of the whole", "[base][utf8]") {
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    const std::string bytes = random_bytes(random, random() % 24);
    Utf8Stream stream;
    std::string text;
    for (size_t offset = 0; offset < bytes.size();) {
      const size_t size = std::min<size_t>(random() % 5, bytes.size() - offset);
      const std::string shown = stream.push(std::string_view(bytes).substr(offset, size));
      if (!is_valid_utf8(shown)) FAIL("half a character in round " << round);
      text += shown;
      offset += size;
    }
    text += stream.finish();
    if (text != replace_invalid_utf8(bytes)) FAIL("round " << round);
    if (!stream.finish().empty()) FAIL("finish() shows its tail twice in round " << round);
  }
}

TEST_CASE("a character is shown with its last byte, not before and not after", "[base][utf8]") {
  Utf8Stream stream;
  CHECK(stream.push("\xF0\x9F").empty());
  CHECK(stream.push("\x98").empty());
  CHECK(stream.push("\x80") == "\U0001F600");
  CHECK(stream.push("\xE4\xB8").empty());
  CHECK(stream.push("x") == "\uFFFDx");  // can no longer become a character
  CHECK(stream.finish().empty());
}

}  // namespace
}  // namespace tandem::tests
