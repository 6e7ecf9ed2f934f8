// UTF-8: decoding with Python's 'replace' policy, whole or as bytes come, validation, white space.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// One step of a decoder over well- or ill-formed bytes.
struct Utf8Step {
  enum class Kind { kCharacter, kIllFormed, kIncomplete };
  Kind kind = Kind::kCharacter;
  uint32_t code_point = 0;  // kCharacter only
  size_t num_bytes = 0;     // kIllFormed: the maximal subpart, one U+FFFD; kIncomplete: the rest
};

// Reads the sequence that starts at `bytes[0]` (not empty). kIncomplete: all of `bytes` is the
// beginning of a sequence that later bytes could complete.
Utf8Step next_utf8(std::string_view bytes);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Not the first byte of a character, in valid UTF-8.
[[nodiscard]] constexpr bool continues_character(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

[[nodiscard]] bool is_valid_utf8(std::string_view bytes);
// bytes.decode("utf-8", "replace"): every maximal ill-formed subpart becomes one U+FFFD.
std::string replace_invalid_utf8(std::string_view bytes);
void append_utf8(uint32_t code_point, std::string& text);

// Bytes in, whole UTF-8 characters out: an incomplete tail is held back until it is complete or
// cannot become so.
class Utf8Stream {
 public:
  // Returns what can be shown now; invalid bytes become U+FFFD.
  std::string push(std::string_view bytes);
  std::string finish();  // the held-back tail, replaced

 private:
  std::string pending_;
};

// Python's str.isspace for one character. It has U+001C..U+001F, which White_Space has not.
[[nodiscard]] bool is_python_space(uint32_t code_point);

}  // namespace tandem
