#include "server/http/json_writer.h"

#include <array>
#include <charconv>
#include <cmath>

#include "runtime/base/utf8.h"

namespace tandem::server {
namespace {

void append_control(std::string& out, unsigned char c) {
  constexpr std::string_view kHex = "0123456789abcdef";
  switch (c) {
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    case '\b':
      out += "\\b";
      return;
    case '\f':
      out += "\\f";
      return;
    default:
      out += "\\u00";
      out.push_back(kHex[c >> 4]);
      out.push_back(kHex[c & 15]);
  }
}

std::string_view line_break_escape(std::string_view character) {
  if (character == "\xc2\x85") return "\\u0085";
  if (character == "\xe2\x80\xa8") return "\\u2028";
  if (character == "\xe2\x80\xa9") return "\\u2029";
  return {};
}

}  // namespace

void append_json_string(std::string& out, std::string_view text, JsonEscapes escapes) {
  out.push_back('"');
  size_t plain_begin = 0;  // [plain_begin, pos) is copied as it is
  size_t pos = 0;
  const auto flush = [&] { out.append(text.substr(plain_begin, pos - plain_begin)); };
  while (pos < text.size()) {
    const auto c = static_cast<unsigned char>(text[pos]);
    if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
      ++pos;
      continue;
    }
    if (c < 0x80) {
      flush();
      if (c == '"' || c == '\\') {
        out.push_back('\\');
        out.push_back(static_cast<char>(c));
      } else {
        append_control(out, c);
      }
      plain_begin = ++pos;
      continue;
    }
    const Utf8Step step = next_utf8(text.substr(pos));
    const bool is_character = step.kind == Utf8Step::Kind::kCharacter;
    const size_t num_bytes = is_character ? step.num_bytes : 1;
    std::string_view replacement;
    if (!is_character) {
      replacement = kReplacementCharacter;
    } else if (escapes == JsonEscapes::kWire) {
      replacement = line_break_escape(text.substr(pos, num_bytes));
    }
    if (!replacement.empty()) {
      flush();
      out.append(replacement);
      plain_begin = pos + num_bytes;
    }
    pos += num_bytes;
  }
  flush();
  out.push_back('"');
}

JsonWriter& JsonWriter::key(std::string_view name) {
  separate();
  append_json_string(out_, name);
  out_.push_back(':');
  needs_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::string(std::string_view text) {
  separate();
  append_json_string(out_, text);
  return *this;
}

JsonWriter& JsonWriter::integer(int64_t value) {
  separate();
  std::array<char, 24> digits;
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  out_.append(digits.data(), result.ptr);
  return *this;
}

JsonWriter& JsonWriter::integers(std::span<const int32_t> values) {
  begin_array();
  for (const int32_t value : values) integer(value);
  return end_array();
}

JsonWriter& JsonWriter::number(double value) {
  if (!std::isfinite(value)) return null();
  separate();
  std::array<char, 40> digits;
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  out_.append(digits.data(), result.ptr);
  return *this;
}

JsonWriter& JsonWriter::boolean(bool value) { return raw(value ? "true" : "false"); }

JsonWriter& JsonWriter::null() { return raw("null"); }

JsonWriter& JsonWriter::raw(std::string_view json) {
  separate();
  out_.append(json);
  return *this;
}

JsonWriter& JsonWriter::open(char bracket) {
  separate();
  out_.push_back(bracket);
  needs_comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::close(char bracket) {
  out_.push_back(bracket);
  needs_comma_ = true;
  return *this;
}

void JsonWriter::separate() {
  if (needs_comma_) out_.push_back(',');
  needs_comma_ = true;
}

}  // namespace tandem::server
