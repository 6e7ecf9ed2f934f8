#include "runtime/grammar/ebnf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace tandem {
namespace {

constexpr size_t kMaxGrammarBytes = 64 << 10;  // of one that a client wrote
constexpr uint32_t kFirstSurrogate = 0xD800;
constexpr uint32_t kLastSurrogate = 0xDFFF;

struct ShortEscape {
  char character;
  char letter;
};
constexpr std::array<ShortEscape, 7> kShortEscapes = {
    {{'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}}};

constexpr std::string_view kRegexSyntax = "^$\\.*+?()[]{}|/-";

// Numbers in braces multiply the size of a grammar.
bool has_large_repeat(std::string_view grammar) {
  constexpr size_t kMaxDigits = 3;
  for (size_t begin = grammar.find('{'); begin != std::string_view::npos;
       begin = grammar.find('{', begin + 1)) {
    size_t num_digits = 0;
    for (size_t idx = begin + 1; idx < grammar.size() && grammar[idx] != '}'; ++idx) {
      const bool is_digit = grammar[idx] >= '0' && grammar[idx] <= '9';
      num_digits = is_digit ? num_digits + 1 : 0;
      if (num_digits > kMaxDigits) return true;
    }
  }
  return false;
}

}  // namespace

CodePointSet::CodePointSet(std::initializer_list<std::pair<uint32_t, uint32_t>> ranges) {
  for (const auto& [first, last] : ranges) add(first, last);
}

void CodePointSet::add(uint32_t first, uint32_t last) {
  last = std::min(last, kLastCodePoint);
  if (first < kFirstSurrogate && last > kLastSurrogate) {
    add(first, kFirstSurrogate - 1);
    return add(kLastSurrogate + 1, last);
  }
  if (first >= kFirstSurrogate && first <= kLastSurrogate) first = kLastSurrogate + 1;
  if (last >= kFirstSurrogate && last <= kLastSurrogate) last = kFirstSurrogate - 1;
  if (first > last) return;
  std::vector<std::pair<uint32_t, uint32_t>> merged;
  for (const auto& range : ranges_) {
    if (range.second + 1 < first || range.first > last + 1) {
      merged.push_back(range);
    } else {
      first = std::min(first, range.first);
      last = std::max(last, range.second);
    }
  }
  merged.emplace_back(first, last);
  std::sort(merged.begin(), merged.end());
  ranges_ = std::move(merged);
}

void CodePointSet::add(const CodePointSet& other) {
  for (const auto& [first, last] : other.ranges_) add(first, last);
}

CodePointSet CodePointSet::complement() const {
  CodePointSet result;
  uint32_t next = 0;
  for (const auto& [first, last] : ranges_) {
    if (first > next) result.add(next, first - 1);
    next = last + 1;
  }
  if (next <= kLastCodePoint) result.add(next, kLastCodePoint);
  return result;
}

CodePointSet CodePointSet::intersection(const CodePointSet& other) const {
  CodePointSet result;
  for (const auto& mine : ranges_) {
    for (const auto& theirs : other.ranges_) {
      const uint32_t first = std::max(mine.first, theirs.first);
      const uint32_t last = std::min(mine.second, theirs.second);
      if (first <= last) result.add(first, last);
    }
  }
  return result;
}

bool CodePointSet::contains(uint32_t code_point) const {
  return std::any_of(ranges_.begin(), ranges_.end(), [&](const auto& range) {
    return range.first <= code_point && code_point <= range.second;
  });
}

std::u32string code_points(std::string_view utf8) {
  std::u32string result;
  for (size_t idx = 0; idx < utf8.size();) {
    const auto lead = static_cast<unsigned char>(utf8[idx]);
    const size_t num_bytes = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    char32_t code_point = lead < 0x80 ? lead : lead & (0x7Fu >> num_bytes);
    for (size_t byte_idx = 1; byte_idx < num_bytes && idx + byte_idx < utf8.size(); ++byte_idx)
      code_point = code_point << 6 | (static_cast<unsigned char>(utf8[idx + byte_idx]) & 0x3Fu);
    result += code_point;
    idx += num_bytes;
  }
  return result;
}

const CodePointSet& plain_json_characters() {
  static const CodePointSet kPlain =
      CodePointSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}).complement();
  return kPlain;
}

std::string ebnf_literal(std::string_view text) {
  std::string literal = "\"";
  for (const char byte : text) {
    const auto value = static_cast<unsigned char>(byte);
    if (byte == '"' || byte == '\\') {
      literal += '\\';
      literal += byte;
    } else if (value < 0x20 || value == 0x7F) {
      literal += fmt::format("\\u{:04x}", value);
    } else {
      literal += byte;
    }
  }
  return literal + '"';
}

std::string ebnf_regex(std::string_view regex) {
  return fmt::format("Regex({})", ebnf_literal(regex));
}

std::optional<std::string> grammar_problem(std::string_view ebnf) {
  if (ebnf.size() > kMaxGrammarBytes)
    return fmt::format("expected at most {} bytes of grammar, got {}", kMaxGrammarBytes,
                       ebnf.size());
  if (has_large_repeat(ebnf)) return "expected repeats below 1000";
  return std::nullopt;
}

// A class for each length in UTF-8: across a change of length XGrammar 0.2.8 lets through codes
// that are longer than they may be, which are no UTF-8.
std::string regex_class(const CodePointSet& set) {
  constexpr std::array<std::pair<uint32_t, uint32_t>, 4> kLengths = {
      {{0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xFFFF}, {0x10000, kLastCodePoint}}};
  std::string classes;
  int num_classes = 0;
  for (const auto& [shortest, longest] : kLengths) {
    const CodePointSet part = set.intersection({{shortest, longest}});
    if (part.empty()) continue;
    classes += num_classes++ == 0 ? "[" : "|[";
    for (const auto& [first, last] : part.ranges()) {
      classes += fmt::format("\\u{{{:x}}}", first);
      if (last != first) classes += fmt::format("-\\u{{{:x}}}", last);
    }
    classes += ']';
  }
  return num_classes == 1 ? classes : fmt::format("({})", classes);
}

std::string regex_json_class(const CodePointSet& set) {
  std::string choices;
  const auto add = [&](const std::string& choice) {
    if (!choices.empty()) choices += '|';
    choices += choice;
  };
  const CodePointSet plain = set.intersection(plain_json_characters());
  if (!plain.empty()) add(regex_class(plain));
  for (const auto& [character, letter] : kShortEscapes) {
    if (set.contains(static_cast<unsigned char>(character)))
      add(regex_literal(std::string("\\") + letter));
  }
  return choices.find('|') == std::string::npos ? choices : fmt::format("({})", choices);
}

std::string regex_literal(std::string_view text) {
  std::string literal;
  for (const char byte : text) {
    if (static_cast<unsigned char>(byte) < 0x20) {
      literal += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
      continue;
    }
    if (kRegexSyntax.find(byte) != std::string_view::npos) literal += '\\';
    literal += byte;
  }
  return literal;
}

std::string json_string_body(std::string_view text) {
  std::string body;
  for (const char byte : text) {
    const auto* escape = std::find_if(kShortEscapes.begin(), kShortEscapes.end(),
                                      [&](const auto& known) { return known.character == byte; });
    if (escape != kShortEscapes.end()) {
      body += '\\';
      body += escape->letter;
    } else if (static_cast<unsigned char>(byte) < 0x20) {
      body += fmt::format("\\u{:04x}", static_cast<unsigned char>(byte));
    } else {
      body += byte;
    }
  }
  return body;
}

}  // namespace tandem
