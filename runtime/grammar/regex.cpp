#include "runtime/grammar/regex.h"

#include <fmt/format.h>

#include <optional>
#include <vector>

#include "runtime/grammar/ebnf.h"

namespace tandem {
namespace {

constexpr std::string_view kHex = "[0-9a-fA-F]";
constexpr int kMaxDepth = 64;
constexpr int64_t kMaxRepeat = 1024;
constexpr int64_t kMaxPieceRepeat = 128;  // of XGrammar 0.2.8
constexpr size_t kMaxExpressionBytes = 64 << 10;
// Copies of the innermost atom that all repeats around it ask for.
constexpr int64_t kMaxCopies = 8192;
// The same for atoms that match most characters: their states take long to compile.
constexpr int64_t kMaxWideCopies = 128;
constexpr uint32_t kWideCharacters = 4096;

const CodePointSet kDigits{{'0', '9'}};
const CodePointSet kWordCharacters{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodePointSet kSpaces{{0x09, 0x0D},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                           {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                           {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodePointSet kLineTerminators{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

std::optional<int64_t> sum(const std::optional<int64_t>& left,
                           const std::optional<int64_t>& right) {
  return left && right ? std::optional(*left + *right) : std::nullopt;
}

// Texts of one behind texts of the other. While all lengths are fixed, the last part decides.
PatternLengths behind(const PatternLengths& first, const PatternLengths& second) {
  PatternLengths both{.least = first.least + second.least, .most = sum(first.most, second.most)};
  if (first.most == first.least) both.ends_from = sum(first.least, second.ends_from);
  if (both.most == both.least) both.ends_from = both.least;
  return both;
}

PatternLengths either(const PatternLengths& left, const PatternLengths& right) {
  PatternLengths any{.least = std::min(left.least, right.least)};
  if (left.most && right.most) any.most = std::max(*left.most, *right.most);
  if (any.most == any.least) any.ends_from = any.least;
  return any;
}

PatternLengths repeated(const PatternLengths& once, int64_t least, std::optional<int64_t> most) {
  PatternLengths all{.least = once.least * least};
  if (once.most && most) all.most = *once.most * *most;
  if (once.most == 0) all.most = 0;
  const bool is_fixed = once.most == once.least;
  if (is_fixed && (once.least == 1 || least == most)) all.ends_from = all.least;
  return all;
}

// x{129,300} is written as x{128}(x{1,127}|x{128}x{0,44}): at most two ways to read a text at once,
// where x{129,172}x{0,128} would have as many as characters.
std::string repeated_text(const std::string& atom, int64_t least, int64_t most) {
  if (most <= kMaxPieceRepeat) return fmt::format("{}{{{},{}}}", atom, least, most);
  const int64_t needed = std::max<int64_t>(least - kMaxPieceRepeat, 0);
  const std::string more = fmt::format("{}{{{}}}{}", atom, kMaxPieceRepeat,
                                       repeated_text(atom, needed, most - kMaxPieceRepeat));
  if (least >= kMaxPieceRepeat) return more;
  return fmt::format("({}{{{},{}}}|{})", atom, least, kMaxPieceRepeat - 1, more);
}

const PatternLengths kAnything{.least = 0, .most = std::nullopt, .ends_from = 0};

// Recursive descent over code points; throws GrammarError, which does not leave this file.
class Parser {
 public:
  Parser(std::string_view pattern, RegexUse use) : characters_(code_points(pattern)), use_(use) {}

  std::string parse() {
    std::string choices;
    std::optional<PatternLengths> any;
    do {
      if (any) choices += '|';
      choices += top_alternative();
      any = any ? either(*any, lengths_) : lengths_;
    } while (take('|'));
    lengths_ = *any;
    if (!at_end()) fail("an unmatched ')'");
    return "(" + choices + ")";
  }
  [[nodiscard]] const PatternLengths& lengths() const { return lengths_; }  // of what was parsed

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw GrammarError{fmt::format("{} at {}", what, position_)};
  }
  [[nodiscard]] bool at_end() const { return position_ == characters_.size(); }
  [[nodiscard]] uint32_t peek(size_t ahead = 0) const {
    return position_ + ahead < characters_.size() ? characters_[position_ + ahead] : 0;
  }
  uint32_t next() {
    if (at_end()) fail("an end too early");
    return characters_[position_++];
  }
  bool take(uint32_t character) {
    if (at_end() || peek() != character) return false;
    ++position_;
    return true;
  }

  std::string top_alternative();
  std::string alternative(int64_t& copies, bool& is_wide);
  std::string disjunction();
  std::string quantified(std::string atom, int64_t copies_inside);
  std::string atom();
  std::string group();
  std::string of_set(const CodePointSet& set);
  CodePointSet escape(bool in_class);
  uint32_t hexadecimal(int num_digits);
  CodePointSet bracket();
  std::optional<int64_t> number();

  std::u32string characters_;
  size_t position_ = 0;
  RegexUse use_;
  int depth_ = 0;
  int64_t copies_ = 1;      // of the atom just parsed
  bool is_wide_ = false;    // it matches most characters
  PatternLengths lengths_;  // of the atom, alternative or group just parsed
};

// Anchors bind here only; without them text may stand around the match.
std::string Parser::top_alternative() {
  const bool searches = use_ == RegexUse::kInsideJsonString;
  const std::string anything = fmt::format("{}*", json_character_regex());
  std::string expression;
  const bool is_open = !take('^') && searches;
  if (is_open) expression += anything;
  int64_t copies = 1;
  bool is_wide = false;
  expression += alternative(copies, is_wide);
  if (is_open) lengths_ = behind(kAnything, lengths_);
  if (!take('$') && searches) {
    expression += anything;
    lengths_ = lengths_.ends_from ? PatternLengths{lengths_.least, {}, lengths_.ends_from}
                                  : behind(lengths_, kAnything);
  }
  if (!at_end() && peek() != '|' && peek() != ')') fail("an anchor in the middle");
  return expression;
}

// Raises `copies` and `is_wide` to what its atoms have.
std::string Parser::alternative(int64_t& copies, bool& is_wide) {
  std::string expression;
  PatternLengths all{.least = 0, .most = 0, .ends_from = 0};
  while (!at_end() && peek() != '|' && peek() != ')' && peek() != '$') {
    copies_ = 1;
    is_wide_ = false;
    std::string part = atom();
    expression += quantified(std::move(part), copies_);
    all = behind(all, lengths_);
    copies = std::max(copies, copies_);
    is_wide = is_wide || is_wide_;
    if (expression.size() > kMaxExpressionBytes) fail("too long an expression");
  }
  lengths_ = all;
  return expression;
}

std::string Parser::disjunction() {
  if (++depth_ > kMaxDepth) fail("groups nested too deeply");
  std::string choices;
  int64_t copies = 1;
  bool is_wide = false;
  std::optional<PatternLengths> any;
  do {
    if (any) choices += '|';
    choices += alternative(copies, is_wide);
    any = any ? either(*any, lengths_) : lengths_;
  } while (take('|'));
  lengths_ = *any;
  if (peek() == '$' && !at_end()) fail("an anchor in a group");
  copies_ = copies;
  is_wide_ = is_wide;
  --depth_;
  return "(" + choices + ")";
}

std::string Parser::quantified(std::string atom_text, int64_t copies_inside) {
  int64_t copies = copies_inside;
  if (take('*')) {
    atom_text += '*';
    lengths_ = repeated(lengths_, 0, std::nullopt);
  } else if (take('+')) {
    atom_text += '+';
    lengths_ = repeated(lengths_, 1, std::nullopt);
  } else if (take('?')) {
    lengths_ = repeated(lengths_, 0, 1);
    // XGrammar 0.2.8 takes (ab*)? to match "b" as well; a choice with nothing is right.
    atom_text = "(|" + std::move(atom_text) + ")";
  } else if (peek() == '{' && !at_end()) {
    ++position_;
    const std::optional<int64_t> least = number();
    const bool has_comma = take(',');
    const std::optional<int64_t> most = has_comma ? number() : least;
    if (!least || !take('}')) fail("a '{' that begins no quantifier");
    if (most && *most < *least) fail("a quantifier whose limits are reversed");
    const int64_t largest = std::max(*least, most.value_or(0));
    if (largest > kMaxRepeat) fail(fmt::format("a repeat of more than {}", kMaxRepeat));
    // x{2,} is written as x{2,2}x*.
    const std::string rest = most ? "" : atom_text + "*";
    atom_text = repeated_text(atom_text, *least, most.value_or(*least)) + rest;
    copies *= std::max<int64_t>(largest, 1);
    lengths_ = repeated(lengths_, *least, most);
  } else {
    copies_ = copies;
    return atom_text;
  }
  if (copies > (is_wide_ ? kMaxWideCopies : kMaxCopies)) fail("repeats that multiply to too many");
  copies_ = copies;
  static_cast<void>(take('?'));  // lazy: the same language
  if (!at_end() && (peek() == '*' || peek() == '+' || peek() == '?' || peek() == '{'))
    fail("a quantifier behind a quantifier");
  return atom_text;
}

std::string Parser::atom() {
  const uint32_t character = next();
  switch (character) {
    case '(':
      return group();
    case '[':
      return of_set(bracket());
    case '.':
      return of_set(kLineTerminators.complement());
    case '\\':
      return of_set(escape(false));
    case '^':
      fail("an anchor in the middle");
    case '*':
    case '+':
    case '?':
    case '{':
      fail("a quantifier behind nothing");
    default:
      return of_set({{character, character}});
  }
}

std::string Parser::group() {
  if (take('?')) {
    if (take('<')) {
      if (peek() == '=' || peek() == '!') fail("look-behind");
      while (next() != '>') {
      }
    } else if (!take(':')) {
      fail(peek() == '=' || peek() == '!' ? "look-ahead" : "a group with flags");
    }
  }
  std::string inside = disjunction();
  if (!take(')')) fail("a '(' without its ')'");
  return inside;
}

std::string Parser::of_set(const CodePointSet& set) {
  if (set.empty()) fail("a class without characters");
  std::string text = use_ == RegexUse::kInsideJsonString ? regex_json_class(set) : regex_class(set);
  if (text.empty()) fail("a character that JSON cannot hold");
  uint32_t num_characters = 0;
  for (const auto& [first, last] : set.ranges()) num_characters += last - first + 1;
  is_wide_ = is_wide_ || num_characters > kWideCharacters;
  lengths_ = {.least = 1, .most = 1, .ends_from = 1};
  return text;
}

CodePointSet Parser::escape(bool in_class) {
  const uint32_t character = next();
  const auto one = [](uint32_t code_point) { return CodePointSet{{code_point, code_point}}; };
  switch (character) {
    case 'd':
      return kDigits;
    case 'D':
      return kDigits.complement();
    case 'w':
      return kWordCharacters;
    case 'W':
      return kWordCharacters.complement();
    case 's':
      return kSpaces;
    case 'S':
      return kSpaces.complement();
    case 'n':
      return one('\n');
    case 'r':
      return one('\r');
    case 't':
      return one('\t');
    case 'f':
      return one('\f');
    case 'v':
      return one('\v');
    case '0':
      return one(0);
    case 'x':
      return one(hexadecimal(2));
    case 'u':
      return one(hexadecimal(4));
    case 'b':
      if (in_class) return one('\b');
      fail("a word boundary");
    case 'B':
      fail("a word boundary");
    case 'p':
    case 'P':
      fail("a Unicode property");
    case 'k':
      fail("a back reference");
    default:
      break;
  }
  if (character >= '1' && character <= '9') fail("a back reference");
  if ((character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z'))
    fail("an unknown escape");
  return one(character);
}

// \xHH, \uHHHH, \u{H...}, and a pair of \u for a character above U+FFFF.
uint32_t Parser::hexadecimal(int num_digits) {
  const bool braced = num_digits == 4 && take('{');
  uint32_t value = 0;
  for (int digit_idx = 0; braced ? peek() != '}' : digit_idx < num_digits; ++digit_idx) {
    const uint32_t digit = next();
    if (digit >= '0' && digit <= '9') {
      value = value * 16 + (digit - '0');
    } else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f') {
      value = value * 16 + ((digit | 0x20) - 'a' + 10);
    } else {
      fail("a hexadecimal escape of other characters");
    }
    if (value > kLastCodePoint) fail("a code point above U+10FFFF");
  }
  if (braced) ++position_;
  if (value >= 0xD800 && value < 0xDC00 && peek() == '\\' && peek(1) == 'u') {
    position_ += 2;
    const uint32_t low = hexadecimal(4);
    if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
    return 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
  }
  if (value >= 0xD800 && value <= 0xDFFF) fail("half of a surrogate pair");
  return value;
}

CodePointSet Parser::bracket() {
  const bool is_negated = take('^');
  CodePointSet set;
  const auto is_single = [](const CodePointSet& item) {
    return item.ranges().size() == 1 && item.ranges()[0].first == item.ranges()[0].second;
  };
  while (!take(']')) {
    const auto item = [&]() -> CodePointSet {
      const uint32_t character = next();
      return character == '\\' ? escape(true) : CodePointSet{{character, character}};
    };
    const CodePointSet first = item();
    if (peek() == '-' && peek(1) != ']' && position_ + 1 < characters_.size()) {
      ++position_;
      const CodePointSet last = item();
      if (!is_single(first) || !is_single(last) || last.ranges()[0].first < first.ranges()[0].first)
        fail("a range in a class that makes no sense");
      set.add(first.ranges()[0].first, last.ranges()[0].first);
    } else {
      set.add(first);
    }
  }
  return is_negated ? set.complement() : set;
}

std::optional<int64_t> Parser::number() {
  std::optional<int64_t> value;
  while (!at_end() && peek() >= '0' && peek() <= '9') {
    value = value.value_or(0) * 10 + (next() - '0');
    if (*value > kMaxRepeat) fail(fmt::format("a repeat of more than {}", kMaxRepeat));
  }
  return value;
}

}  // namespace

const std::string& json_character_regex() {
  static const std::string kCharacter =
      fmt::format(R"(({}|\\(["\\/bfnrt]|u([0-9a-cA-CefEF]{}{{3}}|[dD][0-7]{}{{2}}|)"
                  R"([dD][89abAB]{}{{2}}\\u[dD][c-fC-F]{}{{2}}))))",
                  regex_class(plain_json_characters()), kHex, kHex, kHex, kHex);
  return kCharacter;
}

Result<PatternLengths, GrammarError> pattern_lengths(std::string_view pattern, RegexUse use) {
  try {
    Parser parser(pattern, use);
    parser.parse();
    return parser.lengths();
  } catch (GrammarError& failure) {
    return std::move(failure);
  }
}

Result<std::string, GrammarError> rewrite_regex(std::string_view pattern, RegexUse use) {
  try {
    return Parser(pattern, use).parse();
  } catch (GrammarError& failure) {
    return std::move(failure);
  }
}

}  // namespace tandem
