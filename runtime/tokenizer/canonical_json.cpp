// canonical_tools_json: json.dumps(deep_sort(json.loads(text)), ensure_ascii=False,
// separators=(",", ":")) of Python, which is what the checkpoint's own tokenizer declares tools by.
// spaced_json: json.dumps(json.loads(text), ensure_ascii=False), in which the model writes calls.
#include <algorithm>
#include <array>
#include <charconv>
#include <stdexcept>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "runtime/base/utf8.h"
#include "runtime/tokenizer/chat.h"

namespace tandem {
namespace {

constexpr int kMaxDepth = 256;

enum class Style { kSortedCompact, kSpaced };

class Canonicaliser {
 public:
  Canonicaliser(std::string_view text, Style style) : text_(text), style_(style) {}

  std::string run() {
    std::string out;
    value(out, 0);
    skip_space();
    if (offset_ != text_.size()) fail("the end");
    return out;
  }

 private:
  [[nodiscard]] std::string_view item_separator() const {
    return style_ == Style::kSpaced ? ", " : ",";
  }
  [[nodiscard]] std::string_view key_separator() const {
    return style_ == Style::kSpaced ? ": " : ":";
  }

  [[noreturn]] void fail(const std::string& expected) const {
    throw std::invalid_argument("JSON: expected " + expected + " at byte " +
                                std::to_string(offset_) + " of the JSON text");
  }

  [[nodiscard]] char peek() const { return offset_ < text_.size() ? text_[offset_] : '\0'; }
  [[nodiscard]] bool is_digit() const { return peek() >= '0' && peek() <= '9'; }

  void skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++offset_;
  }

  bool accept(char wanted) {
    skip_space();
    if (peek() != wanted || offset_ == text_.size()) return false;
    ++offset_;
    return true;
  }

  void value(std::string& out, int depth) {
    if (depth > kMaxDepth) fail("at most " + std::to_string(kMaxDepth) + " levels");
    skip_space();
    switch (peek()) {
      case '{':
        return object(out, depth);
      case '[':
        return array(out, depth);
      case '"':
        return write_string(string(), out);
      case 't':
        return word("true", out);
      case 'f':
        return word("false", out);
      case 'n':
        return word("null", out);
      default:
        return number(out);
    }
  }

  void word(std::string_view expected, std::string& out) {
    if (text_.substr(offset_, expected.size()) != expected) fail(std::string(expected));
    offset_ += expected.size();
    out += expected;
  }

  void array(std::string& out, int depth) {
    ++offset_;
    out += '[';
    if (!accept(']')) {
      do {
        if (out.back() != '[') out += item_separator();  // no value ends in '['
        value(out, depth + 1);
      } while (accept(','));
      if (!accept(']')) fail("`,` or `]`");
    }
    out += ']';
  }

  void object(std::string& out, int depth) {
    ++offset_;
    std::vector<std::pair<std::string, std::string>> members;
    if (!accept('}')) {
      do {
        skip_space();
        if (peek() != '"') fail("a string as the key");
        std::pair<std::string, std::string>& member = members.emplace_back(string(), "");
        if (!accept(':')) fail("`:`");
        value(member.second, depth + 1);
      } while (accept(','));
      if (!accept('}')) fail("`,` or `}`");
    }
    unite_equal_keys(members);
    out += '{';
    for (size_t idx = 0; idx < members.size(); ++idx) {
      if (idx > 0) out += item_separator();
      write_string(members[idx].first, out);
      out += key_separator();
      out += members[idx].second;
    }
    out += '}';
  }

  // Of equal keys the last value wins and stands where the key stood first, as in a Python dict.
  // Sorting is by code point, which is the byte order of UTF-8.
  void unite_equal_keys(std::vector<std::pair<std::string, std::string>>& members) const {
    std::unordered_map<std::string, size_t> idx_of;
    size_t num_kept = 0;
    for (auto& member : members) {
      const auto [known, is_new] = idx_of.try_emplace(member.first, num_kept);
      if (!is_new) {
        members[known->second].second = std::move(member.second);
        continue;
      }
      if (&members[num_kept] != &member) members[num_kept] = std::move(member);
      ++num_kept;
    }
    members.resize(num_kept);
    if (style_ == Style::kSortedCompact) std::sort(members.begin(), members.end());
  }

  std::string string() {
    ++offset_;
    std::string content;
    while (true) {
      if (offset_ >= text_.size()) fail("`\"`");
      const char letter = text_[offset_];
      if (static_cast<uint8_t>(letter) < 0x20) fail("no control character inside a string");
      ++offset_;
      if (letter == '"') return content;
      if (letter == '\\') {
        escape(content);
      } else {
        content += letter;
      }
    }
  }

  void escape(std::string& content) {
    const char letter = peek();
    ++offset_;
    switch (letter) {
      case '"':
      case '\\':
      case '/':
        content += letter;
        return;
      case 'b':
        content += '\b';
        return;
      case 'f':
        content += '\f';
        return;
      case 'n':
        content += '\n';
        return;
      case 'r':
        content += '\r';
        return;
      case 't':
        content += '\t';
        return;
      case 'u':
        break;
      default:
        --offset_;
        fail("an escape sequence");
    }
    const uint32_t unit = hex4();
    if (unit < 0xD800 || unit > 0xDFFF) return append_utf8(unit, content);
    // A surrogate without its other half cannot be written in UTF-8.
    if (unit < 0xDC00 && text_.substr(offset_, 2) == "\\u") {
      const size_t before = offset_;
      offset_ += 2;
      const uint32_t low = hex4();
      if (low >= 0xDC00 && low <= 0xDFFF) {
        return append_utf8(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00), content);
      }
      offset_ = before;
    }
    content += kReplacementCharacter;
  }

  uint32_t hex4() {
    uint32_t unit = 0;
    if (text_.size() - offset_ < 4) fail("four hexadecimal digits");
    const char* begin = text_.data() + offset_;
    const auto [end, error] = std::from_chars(begin, begin + 4, unit, 16);
    if (error != std::errc() || end != begin + 4) fail("four hexadecimal digits");
    offset_ += 4;
    return unit;
  }

  // Integers keep their digits at any size; everything else goes through double, as in Python.
  void number(std::string& out) {
    const size_t begin = offset_;
    bool is_integer = true;
    if (peek() == '-') ++offset_;
    if (!is_digit()) fail("a JSON value");
    if (peek() == '0') {
      ++offset_;
    } else {
      while (is_digit()) ++offset_;
    }
    if (peek() == '.') {
      is_integer = false;
      ++offset_;
      if (!is_digit()) fail("a digit");
      while (is_digit()) ++offset_;
    }
    if (peek() == 'e' || peek() == 'E') {
      is_integer = false;
      ++offset_;
      if (peek() == '+' || peek() == '-') ++offset_;
      if (!is_digit()) fail("a digit");
      while (is_digit()) ++offset_;
    }
    const std::string_view token = text_.substr(begin, offset_ - begin);
    if (is_integer) {
      out += token == "-0" ? "0" : token;
    } else {
      write_double(token, out);
    }
  }

  // True when |token| < 1: what does not fit a double is then 0, else infinity.
  static bool is_below_one(std::string_view token) {
    const size_t exponent_begin = std::min(token.find_first_of("eE"), token.size());
    const std::string_view digits = token.substr(0, exponent_begin);
    const auto point = static_cast<int64_t>(std::min(digits.find('.'), digits.size()));
    const size_t first_digit = digits.find_first_of("123456789");
    if (first_digit == std::string_view::npos) return true;
    int64_t exponent = 0;
    if (exponent_begin < token.size()) {
      std::string_view text = token.substr(exponent_begin + 1);
      if (text.starts_with('+')) text.remove_prefix(1);
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), exponent);
      if (error != std::errc()) return text.starts_with('-');
    }
    const int64_t distance = point - static_cast<int64_t>(first_digit);
    return distance + exponent <= 0;
  }

  // repr(float): the shortest digits that read back, positional for 1e-4 <= |x| < 1e16.
  static void write_double(std::string_view token, std::string& out) {
    double number = 0.0;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), number);
    if (error == std::errc::result_out_of_range) {
      if (token.starts_with('-')) out += '-';
      out += is_below_one(token) ? "0.0" : "Infinity";
      return;
    }
    std::array<char, 512> buffer;
    const auto write = [&](std::chars_format format) {
      const auto result =
          std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, format);
      return std::string_view(buffer.data(), static_cast<size_t>(result.ptr - buffer.data()));
    };
    const std::string_view scientific = write(std::chars_format::scientific);
    int exponent = 0;
    const size_t exponent_begin = scientific.find('e') + 1;
    const size_t sign_size = scientific[exponent_begin] == '+' ? 1 : 0;
    std::from_chars(scientific.data() + exponent_begin + sign_size,
                    scientific.data() + scientific.size(), exponent);
    if (exponent < -4 || exponent >= 16) {
      out += scientific;  // both write at least two digits of exponent
      return;
    }
    const std::string_view fixed = write(std::chars_format::fixed);
    out += fixed;
    if (fixed.find('.') == std::string_view::npos) out += ".0";
  }

  static void write_string(std::string_view content, std::string& out) {
    constexpr std::string_view kHex = "0123456789abcdef";
    out += '"';
    for (const char letter : content) {
      switch (letter) {
        case '"':
          out += "\\\"";
          continue;
        case '\\':
          out += "\\\\";
          continue;
        case '\b':
          out += "\\b";
          continue;
        case '\f':
          out += "\\f";
          continue;
        case '\n':
          out += "\\n";
          continue;
        case '\r':
          out += "\\r";
          continue;
        case '\t':
          out += "\\t";
          continue;
        default:
          break;
      }
      const auto byte = static_cast<uint8_t>(letter);
      if (byte < 0x20) {
        out += "\\u00";
        out += kHex[byte >> 4];
        out += kHex[byte & 15];
      } else {
        out += letter;
      }
    }
    out += '"';
  }

  std::string_view text_;
  Style style_;
  size_t offset_ = 0;
};

std::string canonicalise(std::string_view text, Style style) {
  if (!is_valid_utf8(text)) return Canonicaliser(replace_invalid_utf8(text), style).run();
  return Canonicaliser(text, style).run();
}

}  // namespace

std::string canonical_tools_json(std::string_view tools_json) {
  return canonicalise(tools_json, Style::kSortedCompact);
}

std::string spaced_json(std::string_view text) { return canonicalise(text, Style::kSpaced); }

}  // namespace tandem
