#include "runtime/tokenizer/piece_splitter.h"

#include <catch2/catch_test_macros.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace tandem::tests {
namespace {

using Texts = std::vector<std::string>;

Texts pieces_of(const std::string& text) {
  static const PieceSplitter splitter;
  Texts pieces;
  for (size_t offset = 0; offset < text.size();) {
    const size_t size = splitter.next_piece_size(text, offset);
    REQUIRE(size > 0);
    pieces.push_back(text.substr(offset, size));
    offset += size;
  }
  return pieces;
}

TEST_CASE("text is split where the pattern says", "[tokenizer][split]") {
  CHECK(pieces_of("HTTPRequestHandler") == Texts{"HTTPRequest", "Handler"});
  CHECK(pieces_of("getUserName") == Texts{"get", "User", "Name"});
  CHECK(pieces_of("ABCdef") == Texts{"ABCdef"});
  CHECK(pieces_of("ABC def") == Texts{"ABC", " def"});
  CHECK(pieces_of("I'LL we'Ve it'S o'clock") == Texts{"I'LL", " we'Ve", " it'S", " o", "'clock"});
  CHECK(pieces_of("x'\u017F") == Texts{"x'\u017F"});  // long s is an s without case
  CHECK(pieces_of("中a文b") == Texts{"中", "a", "文", "b"});
  CHECK(pieces_of(" 中文") == Texts{" ", "中文"});
  CHECK(pieces_of("々〇〻") == Texts{"々〇〻"});              // Han by script
  CHECK(pieces_of("かな。カナ") == Texts{"かな", "。カナ"});  // not Han; 。 is in Han's extensions
  CHECK(pieces_of("12345") == Texts{"123", "45"});
  CHECK(pieces_of("½Ⅳ٣१") == Texts{"½Ⅳ٣", "१"});
  CHECK(pieces_of("a  b   ") == Texts{"a", " ", " b", "   "});
  CHECK(pieces_of("a \n\n  b") == Texts{"a", " \n\n", " ", " b"});
  CHECK(pieces_of("(x)!!\r\n\ny") == Texts{"(x", ")!!\r\n\n", "y"});
  CHECK(pieces_of(" !x") == Texts{" !", "x"});
  // U+180E is not White_Space (it was until Unicode 6.3): a prefix of letters, no space.
  CHECK(pieces_of("\u180E\u180E!") == Texts{"\u180E\u180E!"});
  CHECK(pieces_of("\u3000\u3000x") == Texts{"\u3000", "\u3000x"});
  CHECK(pieces_of("\u0301a") == Texts{"\u0301a"});
  CHECK(pieces_of("\u01C5a") == Texts{"\u01C5a"});  // title case begins a word
}

// One class each of what the pattern tells apart, with the classes' names as in the pattern.
enum class Class { kHan, kUpper, kLower, kUncased, kNumber, kNewline, kSpace, kOther };
struct Letter {
  const char* text;
  Class of;
};
constexpr Letter kAlphabet[] = {
    {"中", Class::kHan},     {"A", Class::kUpper},        {"É", Class::kUpper},
    {"a", Class::kLower},    {"s", Class::kLower},        {"ß", Class::kLower},
    {"あ", Class::kUncased}, {"\u0301", Class::kUncased}, {"1", Class::kNumber},
    {"٣", Class::kNumber},   {"\n", Class::kNewline},     {"\r", Class::kNewline},
    {" ", Class::kSpace},    {"\u00A0", Class::kSpace},   {"!", Class::kOther},
    {"'", Class::kOther},
};

// The alternatives of spec §4.2 tried in order, each by plain recursion: what a backtracking
// matcher means, without any of the pattern's possessive short cuts.
class NaiveSplitter {
 public:
  explicit NaiveSplitter(std::vector<Letter> letters) : letters_(std::move(letters)) {}

  // End of the piece that starts at `at`.
  [[nodiscard]] size_t piece_end(size_t at) const {
    for (int alternative = 0; alternative < 8; ++alternative) {
      if (const std::optional<size_t> end = match(alternative, at)) return *end;
    }
    FAIL("no alternative matches");
    return at + 1;
  }

 private:
  [[nodiscard]] bool is(size_t at, std::initializer_list<Class> classes) const {
    if (at >= letters_.size()) return false;
    for (const Class of : classes) {
      if (letters_[at].of == of) return true;
    }
    return false;
  }
  [[nodiscard]] bool is_upper(size_t at) const { return is(at, {Class::kUpper, Class::kUncased}); }
  [[nodiscard]] bool is_lower(size_t at) const { return is(at, {Class::kLower, Class::kUncased}); }
  [[nodiscard]] bool is_space(size_t at) const { return is(at, {Class::kSpace, Class::kNewline}); }
  // A mark is neither \p{L} nor \p{N}.
  [[nodiscard]] bool is_letter_or_number(size_t at) const {
    return is(at, {Class::kHan, Class::kUpper, Class::kLower, Class::kUncased, Class::kNumber}) &&
           std::string_view(letters_[at].text) != "\u0301";
  }

  // Greedy upper{min_upper,} then lower{min_lower,}, giving back as needed, then a contraction.
  [[nodiscard]] std::optional<size_t> word(size_t begin, size_t min_upper, size_t min_lower) const {
    size_t upper_end = begin;
    while (is_upper(upper_end)) ++upper_end;
    for (size_t middle = upper_end; middle + 1 > begin + min_upper; --middle) {
      size_t end = middle;
      while (is_lower(end)) ++end;
      if (end - middle >= min_lower) return contraction_end(end);
      if (middle == 0) break;
    }
    return std::nullopt;
  }

  [[nodiscard]] size_t contraction_end(size_t at) const {
    const auto text = [&](size_t idx) {
      return idx < letters_.size() ? std::string_view(letters_[idx].text) : std::string_view();
    };
    return text(at) == "'" && text(at + 1) == "s" ? at + 2 : at;
  }

  [[nodiscard]] std::optional<size_t> match(int alternative, size_t at) const {
    size_t end = at;
    switch (alternative) {
      case 0:
        while (is(end, {Class::kHan})) ++end;
        return end > at ? std::optional(end) : std::nullopt;
      case 1:
      case 2: {
        const size_t min_upper = alternative == 1 ? 0 : 1;
        const bool has_prefix = !is_letter_or_number(at) && !is(at, {Class::kNewline});
        if (has_prefix) {
          if (const auto with_prefix = word(at + 1, min_upper, 1 - min_upper)) return with_prefix;
        }
        return word(at, min_upper, 1 - min_upper);
      }
      case 3:
        while (end < at + 3 && is(end, {Class::kNumber})) ++end;
        return end > at ? std::optional(end) : std::nullopt;
      case 4: {
        const size_t begin = std::string_view(letters_[at].text) == " " ? at + 1 : at;
        end = begin;
        while (end < letters_.size() && !is_space(end) && !is_letter_or_number(end)) ++end;
        if (end == begin) return std::nullopt;
        while (is(end, {Class::kNewline})) ++end;
        return end;
      }
      case 5: {
        while (is_space(end)) ++end;
        while (end > at && !is(end - 1, {Class::kNewline})) --end;
        return end > at ? std::optional(end) : std::nullopt;
      }
      case 6:
        while (is_space(end)) ++end;
        if (end < letters_.size()) --end;  // give one back: the next is then a space
        return end > at && is_space(at) ? std::optional(end) : std::nullopt;
      default:
        while (is_space(end)) ++end;
        return end > at ? std::optional(end) : std::nullopt;
    }
  }

  std::vector<Letter> letters_;
};

TEST_CASE("splitting equals a naive backtracking matcher", "[tokenizer][split]") {
  std::mt19937 random(23);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<Letter> letters(random() % 14);
    std::string text;
    for (Letter& letter : letters) {
      letter = kAlphabet[random() % std::size(kAlphabet)];
      text += letter.text;
    }
    const NaiveSplitter naive(letters);
    Texts expected;
    for (size_t at = 0; at < letters.size();) {
      const size_t end = naive.piece_end(at);
      std::string& piece = expected.emplace_back();
      for (; at < end; ++at) piece += letters[at].text;
    }
    if (pieces_of(text) != expected) FAIL("round " << round << ": " << text);
  }
}

}  // namespace
}  // namespace tandem::tests
