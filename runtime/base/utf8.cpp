#include "runtime/base/utf8.h"

#include <cstring>

namespace tandem {
namespace {

// Length of the sequence a lead byte opens and the range its second byte must lie in (Unicode
// table 3-7); 0 bytes for what opens nothing.
struct LeadByte {
  size_t num_bytes;
  uint8_t second_min;
  uint8_t second_max;
};

LeadByte lead_byte(uint8_t byte) {
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

size_t ascii_prefix_size(std::string_view bytes) {
  size_t offset = 0;
  while (offset + 8 <= bytes.size()) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + offset, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    offset += 8;
  }
  while (offset < bytes.size() && static_cast<uint8_t>(bytes[offset]) < 0x80) ++offset;
  return offset;
}

// Appends the decoding of `bytes`; returns the size of an incomplete tail, which is not appended.
size_t append_replaced(std::string_view bytes, std::string& text) {
  while (!bytes.empty()) {
    const size_t num_ascii = ascii_prefix_size(bytes);
    text.append(bytes.substr(0, num_ascii));
    bytes.remove_prefix(num_ascii);
    if (bytes.empty()) return 0;
    const Utf8Step step = next_utf8(bytes);
    if (step.kind == Utf8Step::Kind::kIncomplete) return bytes.size();
    text.append(step.kind == Utf8Step::Kind::kCharacter ? bytes.substr(0, step.num_bytes)
                                                        : kReplacementCharacter);
    bytes.remove_prefix(step.num_bytes);
  }
  return 0;
}

}  // namespace

Utf8Step next_utf8(std::string_view bytes) {
  const auto first = static_cast<uint8_t>(bytes[0]);
  if (first < 0x80) return {Utf8Step::Kind::kCharacter, first, 1};
  const LeadByte lead = lead_byte(first);
  if (lead.num_bytes == 0) return {Utf8Step::Kind::kIllFormed, 0, 1};
  uint32_t code_point = first & (0x7Fu >> lead.num_bytes);
  for (size_t byte_idx = 1; byte_idx < lead.num_bytes; ++byte_idx) {
    if (byte_idx == bytes.size()) return {Utf8Step::Kind::kIncomplete, 0, byte_idx};
    const auto byte = static_cast<uint8_t>(bytes[byte_idx]);
    const uint8_t min = byte_idx == 1 ? lead.second_min : uint8_t{0x80};
    const uint8_t max = byte_idx == 1 ? lead.second_max : uint8_t{0xBF};
    if (byte < min || byte > max) return {Utf8Step::Kind::kIllFormed, 0, byte_idx};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {Utf8Step::Kind::kCharacter, code_point, lead.num_bytes};
}

bool is_valid_utf8(std::string_view bytes) {
  while (true) {
    bytes.remove_prefix(ascii_prefix_size(bytes));
    if (bytes.empty()) return true;
    const Utf8Step step = next_utf8(bytes);
    if (step.kind != Utf8Step::Kind::kCharacter) return false;
    bytes.remove_prefix(step.num_bytes);
  }
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  if (append_replaced(bytes, text) != 0) text.append(kReplacementCharacter);
  return text;
}

void append_utf8(uint32_t code_point, std::string& text) {
  const auto add = [&text](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    add(code_point);
  } else if (code_point < 0x800) {
    add(0xC0 | (code_point >> 6));
    add(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    add(0xE0 | (code_point >> 12));
    add(0x80 | ((code_point >> 6) & 0x3F));
    add(0x80 | (code_point & 0x3F));
  } else {
    add(0xF0 | (code_point >> 18));
    add(0x80 | ((code_point >> 12) & 0x3F));
    add(0x80 | ((code_point >> 6) & 0x3F));
    add(0x80 | (code_point & 0x3F));
  }
}

bool is_python_space(uint32_t code_point) {
  if (code_point < 0x80) {
    return code_point == ' ' || (code_point >= 0x09 && code_point <= 0x0D) ||
           (code_point >= 0x1C && code_point <= 0x1F);
  }
  return code_point == 0x85 || code_point == 0xA0 || code_point == 0x1680 ||
         (code_point >= 0x2000 && code_point <= 0x200A) || code_point == 0x2028 ||
         code_point == 0x2029 || code_point == 0x202F || code_point == 0x205F ||
         code_point == 0x3000;
}

std::string Utf8Stream::push(std::string_view bytes) {
  std::string text;
  if (pending_.empty()) {
    const size_t tail_size = append_replaced(bytes, text);
    pending_.assign(bytes.substr(bytes.size() - tail_size));
    return text;
  }
  std::string joined = std::move(pending_);
  joined.append(bytes);
  const size_t tail_size = append_replaced(joined, text);
  pending_.assign(joined, joined.size() - tail_size);
  return text;
}

std::string Utf8Stream::finish() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacementCharacter);
}

}  // namespace tandem
