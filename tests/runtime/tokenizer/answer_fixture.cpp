#include "tests/runtime/tokenizer/answer_fixture.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <unordered_map>

#include "runtime/base/utf8.h"
#include "tests/runtime/tokenizer/vocabulary_fixture.h"

namespace tandem::tests {
namespace {

using Pieces = std::vector<std::string>;

const Tokenizer& marker_tokenizer() {
  static const Tokenizer tokenizer = small_tokenizer();
  return tokenizer;
}

bool is_marker(const std::string& piece) { return marker_tokenizer().find_special(piece) >= 0; }

// The marker that starts `text`; "" when there is none.
std::string_view leading_marker(std::string_view text) {
  const Tokenizer& tokenizer = marker_tokenizer();
  if (text[0] != '<' && text[0] != '[') return {};
  for (int32_t id = tokenizer.num_base_tokens(); id < tokenizer.vocab_size(); ++id) {
    if (text.starts_with(tokenizer.token_bytes(id))) return tokenizer.token_bytes(id);
  }
  return {};
}

// The stretches between markers, and the markers. Bytes stay as they are, ill-formed ones too.
Pieces split_at_markers(std::string_view text) {
  Pieces pieces;
  bool is_open = false;
  while (!text.empty()) {
    const std::string_view marker = leading_marker(text);
    if (!marker.empty() || !is_open) pieces.emplace_back();
    pieces.back() += marker.empty() ? text.substr(0, 1) : marker;
    is_open = marker.empty();
    text.remove_prefix(marker.empty() ? 1 : marker.size());
  }
  return pieces;
}

// Cuts every stretch at the byte offsets that `is_cut(offset in the whole text)` names.
template <typename IsCut>
Pieces cut(const Pieces& stretches, IsCut is_cut) {
  Pieces pieces;
  size_t offset = 0;
  for (const std::string& stretch : stretches) {
    if (is_marker(stretch)) {
      pieces.push_back(stretch);
      offset += stretch.size();
      continue;
    }
    pieces.emplace_back();
    for (const char byte : stretch) {
      if (!pieces.back().empty() && is_cut(offset)) pieces.emplace_back();
      pieces.back() += byte;
      ++offset;
    }
  }
  return pieces;
}

}  // namespace

void add_delta(const AssistantDelta& delta, Answer& answer) {
  if (!is_valid_utf8(delta.text)) FAIL("half a character in a delta");
  switch (delta.kind) {
    case AssistantDelta::Kind::kReasoning:
      if (delta.text.empty() && answer.reasoning.value_or("") != "") FAIL("an empty delta");
      answer.reasoning = answer.reasoning.value_or("") + delta.text;
      return;
    case AssistantDelta::Kind::kContent:
      if (delta.text.empty()) FAIL("an empty delta");
      answer.content += delta.text;
      return;
    case AssistantDelta::Kind::kToolCallBegin:
      if (delta.call_idx != std::ssize(answer.calls)) FAIL("index " << delta.call_idx);
      answer.calls.push_back({delta.call_id, delta.call_name, ""});
      return;
    case AssistantDelta::Kind::kToolCallArguments:
      if (delta.text.empty()) FAIL("an empty delta");
      if (delta.call_idx + 1 != std::ssize(answer.calls)) FAIL("index " << delta.call_idx);
      answer.calls.back().arguments += delta.text;
      return;
  }
}

CutText::CutText(const std::vector<std::string>& chunks, int num_random, uint32_t seed) {
  std::string text;
  std::vector<size_t> chunk_begins;
  for (const std::string& chunk : chunks) {
    chunk_begins.push_back(text.size());
    text += chunk;
  }
  const Pieces stretches = split_at_markers(text);
  std::vector<Pieces> segmentations;
  segmentations.push_back(cut(stretches, [](size_t) { return true; }));
  segmentations.push_back(cut(stretches, [&](size_t offset) {
    return std::find(chunk_begins.begin(), chunk_begins.end(), offset) != chunk_begins.end();
  }));
  segmentations.push_back(stretches);
  std::mt19937 random(seed);
  for (int idx = 0; idx < num_random; ++idx) {
    const size_t mean_size = 2 + random() % 6;
    segmentations.push_back(cut(stretches, [&](size_t) { return random() % mean_size == 0; }));
  }

  std::unordered_map<std::string, int32_t> id_of;
  Pieces merges;
  for (const Pieces& pieces : segmentations) {
    for (const std::string& piece : pieces) {
      if (piece.size() == 1) {
        id_of[piece] = static_cast<uint8_t>(piece[0]);
      } else if (!is_marker(piece) &&
                 id_of.emplace(piece, 256 + static_cast<int32_t>(merges.size())).second) {
        merges.push_back(piece);
      }
    }
  }
  tokenizer_ = small_tokenizer(merges);
  for (const Pieces& pieces : segmentations) {
    std::vector<int32_t>& ids = sequences_.emplace_back();
    for (const std::string& piece : pieces) {
      ids.push_back(is_marker(piece) ? tokenizer_->find_special(piece) : id_of.at(piece));
    }
    if (tokenizer_->decode(ids) != replace_invalid_utf8(text)) FAIL("bad segmentation");
  }
}

Answer parse_answer(const Tokenizer& tokenizer,
                    const AssistantParserOptions& options,
                    const std::vector<int32_t>& ids,
                    std::vector<AssistantDelta>* deltas) {
  AssistantParser parser(tokenizer, options);
  std::vector<AssistantDelta> out;
  for (const int32_t id : ids) parser.push(id, out);
  parser.finish(out);
  Answer answer;
  for (const AssistantDelta& delta : out) add_delta(delta, answer);
  if (parser.num_tool_calls() != std::ssize(answer.calls)) FAIL("wrong number of calls");
  if (deltas != nullptr) *deltas = std::move(out);
  return answer;
}

}  // namespace tandem::tests
