// Stop strings and patterns in text that comes in any pieces.
#include "runtime/tokenizer/stop_scanner.h"

#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

namespace tandem::tests {
namespace {

std::shared_ptr<const StopPattern> pattern(std::string_view text) {
  auto compiled = StopPattern::compile(text);
  if (!compiled) FAIL(compiled.error().message);
  return *compiled;
}

StopRules rules(const std::vector<std::string>& patterns,
                std::vector<std::string> strings = {},
                bool include_match = false) {
  StopRules made{.strings = std::move(strings), .include_match = include_match};
  for (const std::string& text : patterns) made.patterns.push_back(pattern(text));
  return made;
}

struct Scanned {
  std::string shown;
  std::optional<std::string> matched;
};

// In pieces of `size` characters (ASCII), which must make no difference.
Scanned scan(const StopRules& rules, std::string_view text, size_t size) {
  StopScanner scanner(rules);
  Scanned scanned;
  for (size_t begin = 0; begin < text.size(); begin += size)
    scanned.shown += scanner.push(text.substr(begin, size));
  scanned.shown += scanner.flush();
  CHECK(scanner.failure() == "");
  scanned.matched = scanner.matched();
  return scanned;
}

Scanned scan(const StopRules& rules, std::string_view text) {
  const Scanned whole = scan(rules, text, text.size());
  for (const size_t size : {1, 2, 3, 7}) {
    const Scanned pieces = scan(rules, text, size);
    CHECK(pieces.shown == whole.shown);
    CHECK(pieces.matched == whole.matched);
  }
  return whole;
}

TEST_CASE("an answer ends as soon as the text so far has a match of a pattern", "[stop]") {
  CHECK(scan(rules({"[0-9]+"}), "in the year 1969 and").shown == "in the year ");
  CHECK(scan(rules({"[0-9]{4}"}), "12 or 1969 and").shown == "12 or ");
  CHECK(scan(rules({"Q[^ ]*:"}), "A: Quick Q7: b").shown == "A: Quick ");
  CHECK(scan(rules({"Q[^ ]*:"}), "A: Quick Q7 b").shown == "A: Quick Q7 b");
  CHECK(scan(rules({"^ab"}), "cab").shown == "cab");
  CHECK(scan(rules({"^ab"}), "abc").shown == "");
  CHECK(scan(rules({"(?m)^ab"}), "c\nabd").shown == "c\n");
  CHECK(scan(rules({"(?<=x)y"}), "y xyz").shown == "y x");
  CHECK(scan(rules({"\\bend\\b"}), "bend end.").shown == "bend ");
  CHECK(scan(rules({"(?i)stop"}), "go StOp go").shown == "go ");
  const Scanned two = scan(rules({"never", "b+c"}), "abbbcd");
  CHECK(two.shown == "a");
  CHECK(two.matched == "b+c");
}

TEST_CASE("strings and patterns: the first to be complete, the longer of two at once", "[stop]") {
  CHECK(scan(rules({"c+"}, {"bb"}), "abbcc").matched == "bb");
  CHECK(scan(rules({"b+"}, {"bb"}), "abbcc").matched == "b+");
  CHECK(scan(rules({"a?bb"}, {"bb"}), "abbcc").shown == "");
  CHECK(scan(rules({"bb"}, {"abb"}), "abbcc").matched == "abb");
  CHECK(scan(rules({"b{2}"}, {"x"}, true), "abbcc").shown == "abb");
}

TEST_CASE("characters of several bytes are one character to a pattern", "[stop]") {
  StopScanner scanner(rules({"é.ü"}));
  CHECK(scanner.push("aé") == "a");
  CHECK(scanner.push("日") == "");
  CHECK(scanner.push("x") == "é日x");
  CHECK(scanner.push("é日") == "");
  CHECK(scanner.push("ü!") == "");
  CHECK(scanner.stopped());
  CHECK(scan(rules({"\\w+!"}), "a").shown == "a");
  StopScanner words(rules({"\\w+!"}));
  CHECK(words.push("ja, größe!") == "ja, ");
}

TEST_CASE("what may be the beginning of a match is held back, up to a limit", "[stop]") {
  StopScanner scanner(rules({"<[a-z]+>"}));
  CHECK(scanner.push("a <") == "a ");
  CHECK(scanner.push("tag") == "");
  CHECK(scanner.push("3") == "<tag3");
  CHECK(scanner.push("<tag") == "");
  CHECK(scanner.flush() == "<tag");
  CHECK_FALSE(scanner.stopped());

  StopScanner bounded(rules({"<[a-z]+>"}));
  CHECK(bounded.push("<" + std::string(1023, 'a')) == "");
  CHECK(bounded.push("bc") == "<a");
  CHECK(bounded.push(">").size() == 1025);  // its match would begin in what is shown
  CHECK_FALSE(bounded.stopped());
}

TEST_CASE("look-behinds see what has been shown long ago, and no anchor matches there", "[stop]") {
  StopScanner scanner(rules({"(?<=ab)c", "^z"}));
  for (int idx = 0; idx < 3000; ++idx) static_cast<void>(scanner.push("xy"));
  CHECK(scanner.push("z") == "z");
  CHECK(scanner.push("ab") == "ab");
  CHECK(scanner.push("cd") == "");
  CHECK(scanner.matched() == "(?<=ab)c");
}

TEST_CASE("a pattern that would take long fails its answer and says so", "[stop]") {
  StopScanner scanner(rules({"(a|aa)+[bc]\\1"}));
  std::string shown;
  for (int idx = 0; idx < 200 && scanner.failure().empty(); ++idx) shown += scanner.push("aaaa");
  CHECK(scanner.stopped());
  CHECK(scanner.failure().find("(a|aa)+[bc]\\1") != std::string::npos);
  CHECK(scanner.failure().find("too many steps") != std::string::npos);
  CHECK_FALSE(scanner.matched());
  CHECK(scanner.push("b") == "");
}

TEST_CASE("a pattern that is none, or that matches anything, is refused with PCRE2's words",
          "[stop]") {
  const auto problem = [](std::string_view text) {
    const auto compiled = StopPattern::compile(text);
    return compiled ? "" : compiled.error().message;
  };
  CHECK(problem("a+") == "");
  CHECK(problem("(b") == "missing closing parenthesis at offset 2");
  CHECK(problem("a*") == "the pattern matches an empty text");
  CHECK(problem("$") == "the pattern matches an empty text");
  CHECK(problem("\\C").find("offset") != std::string::npos);
  CHECK(problem("((((a{1000}){1000}){1000}){1000})").find("too large") != std::string::npos);
  CHECK(problem(std::string(200, '(') + "a" + std::string(200, ')')).find("nested") !=
        std::string::npos);
}

}  // namespace
}  // namespace tandem::tests
