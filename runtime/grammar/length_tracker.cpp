#include "runtime/grammar/length_tracker.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "runtime/base/utf8.h"

namespace tandem {
namespace {

void set_bit(TokenLengths::Mask& mask, int32_t token_id) {
  mask[static_cast<size_t>(token_id) / 32] |= 1u << (token_id % 32);
}

void intersect(std::span<uint32_t> mask, const TokenLengths::Mask& other) {
  for (size_t word_idx = 0; word_idx < mask.size(); ++word_idx) mask[word_idx] &= other[word_idx];
}

// Counts the characters of a string's inside up to its end, escapes as one.
struct StringScan {
  int64_t num_characters = 0;
  size_t size_bytes = 0;  // with the quote, where there is one
  bool ends = false;
};

StringScan scan_string(std::string_view bytes) {
  static const LengthPlan kNoPlan;
  JsonCursor cursor(kNoPlan);
  cursor.push('"');
  StringScan scan;
  for (const char byte : bytes) {
    cursor.push(byte);
    ++scan.size_bytes;
    if (cursor.inside() == JsonCursor::Inside::kStructure) {
      scan.ends = true;
      break;
    }
    scan.num_characters = cursor.num_characters();
  }
  return scan;
}

}  // namespace

int32_t JsonCursor::value_place() const {
  if (frames_.empty()) return plan_->root();
  const Frame& frame = frames_.back();
  return frame.is_object ? frame.member_place : plan_->item(frame.place, frame.item_idx);
}

StringLengths JsonCursor::lengths() const {
  if (inside_ == Inside::kValue) return plan_->strings(string_place_);
  if (inside_ == Inside::kKey) return {};
  if (frames_.empty()) return plan_->strings(plan_->root());
  const Frame& frame = frames_.back();
  if (!frame.is_object) {
    return plan_->strings(plan_->item(frame.place, frame.item_idx + (frame.after_value ? 1 : 0)));
  }
  if (frame.expects_key || frame.after_value) return {};
  return plan_->strings(frame.member_place);
}

bool JsonCursor::push(char byte) {
  if (inside_ != Inside::kStructure) return push_string(byte);
  push_structure(byte);
  return true;
}

void JsonCursor::push_structure(char byte) {
  switch (byte) {
    case '"':
      inside_ = !frames_.empty() && frames_.back().expects_key ? Inside::kKey : Inside::kValue;
      string_place_ = inside_ == Inside::kValue ? value_place() : LengthPlan::kUnlimited;
      num_characters_ = 0;
      key_.clear();
      return;
    case '{':
      frames_.push_back({.place = value_place(), .is_object = true, .expects_key = true});
      return;
    case '[':
      frames_.push_back({.place = value_place()});
      return;
    case '}':
    case ']':
      if (!frames_.empty()) frames_.pop_back();
      break;
    case ',':
      if (frames_.empty()) return;
      ++frames_.back().item_idx;
      frames_.back().expects_key = frames_.back().is_object;
      frames_.back().after_value = false;
      return;
    case ' ':
    case '\n':
    case '\r':
    case '\t':
    case ':':
      return;
    default:
      break;
  }
  if (!frames_.empty()) frames_.back().after_value = true;
}

bool JsonCursor::push_string(char byte) {
  if (byte == '"' && !in_escape()) return end_string();
  if (inside_ == Inside::kKey) key_ += byte;
  if (after_backslash_) {
    after_backslash_ = false;
    num_hex_left_ = byte == 'u' ? 4 : 0;
    escaped_ = 0;
    return true;
  }
  if (num_hex_left_ > 0) {
    const auto digit = static_cast<uint32_t>(byte <= '9' ? byte - '0' : (byte | 0x20) - 'a' + 10);
    escaped_ = escaped_ * 16 + (digit & 15);
    if (--num_hex_left_ == 0) expects_low_half_ = escaped_ >= 0xD800 && escaped_ < 0xDC00;
    return true;
  }
  after_backslash_ = byte == '\\';
  const bool is_continued = std::exchange(expects_low_half_, false) || continues_character(byte);
  if (!is_continued) ++num_characters_;
  const auto& most = plan_->strings(string_place_).most;
  return !most || num_characters_ <= *most;
}

bool JsonCursor::end_string() {
  const bool is_key = inside_ == Inside::kKey;
  inside_ = Inside::kStructure;
  expects_low_half_ = false;
  if (is_key) {
    Frame& frame = frames_.back();
    frame.expects_key = false;
    frame.after_value = false;
    frame.member_place = plan_->member(frame.place, key_);
    return true;
  }
  if (!frames_.empty()) frames_.back().after_value = true;
  return num_characters_ >= plan_->strings(string_place_).least;
}

TokenLengths::TokenLengths(const Tokenizer& tokenizer, int32_t vocab_size) : tokenizer_(tokenizer) {
  const Mask none((static_cast<size_t>(vocab_size) + 31) / 32);
  for (auto* masks : {&inside_at_most_, &inside_at_least_, &outside_at_most_}) {
    masks->assign(kMaxCounted + 1, none);
  }
  inside_exceptions_ = outside_exceptions_ = escape_exceptions_ = none;
  const int32_t num_tokens = std::min(tokenizer.vocab_size(), vocab_size);
  for (int32_t id = 0; id < num_tokens; ++id) add(id);
  // So far each mask has what is exactly so long.
  for (size_t num = 1; num <= kMaxCounted; ++num) {
    for (size_t word_idx = 0; word_idx < none.size(); ++word_idx) {
      inside_at_most_[num][word_idx] |= inside_at_most_[num - 1][word_idx];
      outside_at_most_[num][word_idx] |= outside_at_most_[num - 1][word_idx];
      inside_at_least_[kMaxCounted - num][word_idx] |=
          inside_at_least_[kMaxCounted - num + 1][word_idx];
    }
  }
}

std::string_view TokenLengths::bytes(int32_t token_id) const {
  return tokenizer_.is_special(token_id) ? std::string_view() : tokenizer_.token_bytes(token_id);
}

void TokenLengths::add(int32_t token_id) {
  const std::string_view text = bytes(token_id);
  const StringScan inside = scan_string(text);
  const auto num_inside = static_cast<size_t>(std::min(inside.num_characters, kMaxCounted));
  set_bit(inside_at_most_[num_inside], token_id);
  set_bit(inside_at_least_[inside.ends ? num_inside : kMaxCounted], token_id);
  const size_t reopens = text.find('"', inside.size_bytes);
  const bool writes_next = reopens != std::string_view::npos && reopens + 1 < text.size();
  if (writes_next || inside.num_characters >= kMaxCounted) set_bit(inside_exceptions_, token_id);

  const size_t opens = text.find('"');
  if (opens != std::string_view::npos || inside.num_characters >= kMaxCounted)
    set_bit(escape_exceptions_, token_id);
  if (opens == std::string_view::npos) return set_bit(outside_at_most_[0], token_id);
  const StringScan opened = scan_string(text.substr(opens + 1));
  set_bit(outside_at_most_[static_cast<size_t>(std::min(opened.num_characters, kMaxCounted))],
          token_id);
  const bool is_plain = text.substr(0, opens).find_first_not_of(" \n\r\t,:") == std::string::npos;
  if (opened.ends || opened.num_characters >= kMaxCounted ||
      (opened.num_characters > 0 && !is_plain))
    set_bit(outside_exceptions_, token_id);
}

const TokenLengths::Mask& TokenLengths::inside_at_most(int64_t num) const {
  return inside_at_most_[static_cast<size_t>(std::min(num, kMaxCounted))];
}
const TokenLengths::Mask& TokenLengths::inside_at_least(int64_t num) const {
  return inside_at_least_[static_cast<size_t>(std::min(num, kMaxCounted))];
}
const TokenLengths::Mask& TokenLengths::outside_at_most(int64_t num) const {
  return outside_at_most_[static_cast<size_t>(std::min(num, kMaxCounted))];
}

LengthTracker::LengthTracker(std::shared_ptr<const LengthPlan> plan,
                             std::shared_ptr<const TokenLengths> tokens)
    : plan_(std::move(plan)), tokens_(std::move(tokens)), cursor_(*plan_), scratch_(*plan_) {}

void LengthTracker::narrow(std::span<uint32_t> mask) {
  const auto [least, most] = cursor_.lengths();
  if (cursor_.inside() == JsonCursor::Inside::kStructure) {
    if (most && *most < TokenLengths::kMaxCounted) intersect(mask, tokens_->outside_at_most(*most));
    return try_each(mask, &tokens_->outside_exceptions());
  }
  const int64_t needed = least - cursor_.num_characters();
  const bool is_short = most && *most - cursor_.num_characters() < TokenLengths::kMaxCounted;
  if (cursor_.in_escape() || cursor_.in_pair()) {
    // The masks count from between two characters.
    return try_each(mask, needed > 0 || is_short ? nullptr : &tokens_->escape_exceptions());
  }
  if (is_short) intersect(mask, tokens_->inside_at_most(*most - cursor_.num_characters()));
  if (needed > 0) intersect(mask, tokens_->inside_at_least(needed));
  try_each(mask, &tokens_->inside_exceptions());
}

void LengthTracker::try_each(std::span<uint32_t> mask, const TokenLengths::Mask* among) {
  for (size_t word_idx = 0; word_idx < mask.size(); ++word_idx) {
    uint32_t bits = mask[word_idx] & (among != nullptr ? (*among)[word_idx] : ~0u);
    for (; bits != 0; bits &= bits - 1) {
      const int bit = std::countr_zero(bits);
      scratch_ = cursor_;
      const std::string_view text = tokens_->bytes(static_cast<int32_t>(word_idx) * 32 + bit);
      const bool fits =
          std::all_of(text.begin(), text.end(), [&](char byte) { return scratch_.push(byte); });
      if (!fits) mask[word_idx] &= ~(1u << bit);
    }
  }
}

void LengthTracker::accept(int32_t token_id) {
  for (const char byte : tokens_->bytes(token_id)) static_cast<void>(cursor_.push(byte));
}

}  // namespace tandem
