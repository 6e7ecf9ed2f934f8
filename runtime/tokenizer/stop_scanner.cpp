#include "runtime/tokenizer/stop_scanner.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/base/utf8.h"

namespace tandem {
namespace {

constexpr size_t kMaxHeldBytes = 1024;     // for patterns
constexpr size_t kMaxContextBytes = 1024;  // ahead of them, for look-behinds

}  // namespace

StopScanner::StopScanner(StopRules rules) : rules_(std::move(rules)) {
  std::erase(rules_.strings, "");
  for (const auto& pattern : rules_.patterns) searches_.emplace_back(pattern);
}

std::string StopScanner::push(std::string_view text) {
  if (stopped()) return {};
  const size_t num_seen = text_.size();
  text_ += text;
  Match match = find_string();
  find_patterns(num_seen, match);
  if (!failure_.empty()) return {};
  if (match.stop != nullptr) {
    matched_ = *match.stop;
    return show_until(rules_.include_match ? match.span.end : match.span.begin);
  }
  const size_t end = shown_end();
  return failure_.empty() ? show_until(end) : "";
}

std::string StopScanner::flush() { return stopped() ? "" : show_until(text_.size()); }

StopScanner::Match StopScanner::find_string() const {
  Match match;
  for (const std::string& stop : rules_.strings) {
    const size_t begin = text_.find(stop, held_begin_);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    const bool is_first = match.stop == nullptr || end < match.span.end ||
                          (end == match.span.end && begin < match.span.begin);
    if (is_first) match = {{begin, end}, &stop};
  }
  return match;
}

// A pattern is met as soon as the text so far has a match; `match` may hold a string's.
void StopScanner::find_patterns(size_t num_seen, Match& match) {
  if (searches_.empty()) return;
  for (StopSearch& search : searches_) search.earn();
  const size_t limit = match.stop != nullptr ? match.span.end : text_.size();
  for (size_t end = num_seen; end < limit;) {
    do {
      ++end;
    } while (end < text_.size() && continues_character(text_[end]));
    Match first;
    for (StopSearch& search : searches_) {
      StopSearch::Span span;
      const auto outcome = search.find(std::string_view(text_).substr(0, end), held_begin_, span);
      if (outcome == StopSearch::Outcome::kTooCostly) return fail(search);
      const bool is_longer = first.stop == nullptr || span.begin < first.span.begin;
      if (outcome == StopSearch::Outcome::kFound && is_longer) first = {span, &search.pattern()};
    }
    if (first.stop == nullptr) continue;
    const bool is_string =
        match.stop != nullptr && match.span.end == end && match.span.begin <= first.span.begin;
    if (!is_string) match = first;
    return;
  }
}

// Up to what may be the beginning of a match. May set failure_.
size_t StopScanner::shown_end() {
  size_t end = text_.size();
  const std::string_view held = std::string_view(text_).substr(held_begin_);
  for (const std::string& stop : rules_.strings) {
    const size_t most = std::min(stop.size() - 1, held.size());
    for (size_t size = most; size > text_.size() - end; --size) {
      if (held.ends_with(std::string_view(stop).substr(0, size))) end = text_.size() - size;
    }
  }
  for (StopSearch& search : searches_) {
    size_t begin = 0;
    if (search.find_beginning(text_, held_begin_, begin) == StopSearch::Outcome::kTooCostly) {
      fail(search);
      return end;
    }
    if (text_.size() - begin > kMaxHeldBytes) {
      begin = text_.size() - kMaxHeldBytes;
      while (begin < text_.size() && continues_character(text_[begin])) ++begin;
    }
    end = std::min(end, begin);
  }
  return end;
}

void StopScanner::fail(const StopSearch& search) {
  failure_ = fmt::format("stop_regex: searching this answer for '{}' takes too many steps",
                         search.pattern());
}

std::string StopScanner::show_until(size_t end) {
  std::string shown = text_.substr(held_begin_, end - held_begin_);
  held_begin_ = end;
  size_t num_dropped = held_begin_;
  if (!searches_.empty()) {
    if (held_begin_ < 2 * kMaxContextBytes) return shown;
    num_dropped = held_begin_ - kMaxContextBytes;
    while (num_dropped < held_begin_ && continues_character(text_[num_dropped])) ++num_dropped;
  }
  text_.erase(0, num_dropped);
  held_begin_ -= num_dropped;
  return shown;
}

}  // namespace tandem
