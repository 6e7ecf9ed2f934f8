// The parser of generated answers over any sequence of token ids, the inference of unnamed calls
// over any schema, and the canonical form of any tool list.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/assistant_parser.h"
#include "runtime/tokenizer/chat.h"
#include "tests/support/byte_vocabulary.h"

namespace tandem {
namespace {

const StopRules& stop_rules() {
  static const StopRules rules = {
      .strings = {"ab", "b", "\n\n"},
      .patterns = {*StopPattern::compile("c[^d]*d"), *StopPattern::compile("(?<=e)(f|ff)+[gh]")}};
  return rules;
}

AssistantParserOptions options_of(uint8_t flags, std::string_view schema) {
  AssistantParserOptions options;
  options.starts_in_reasoning = (flags & 1) != 0;
  options.parse_tool_calls = (flags & 2) == 0;
  options.parse_reasoning = (flags & 4) == 0;
  if ((flags & 16) != 0) options.stop = stop_rules();
  options.stop.include_match = (flags & 8) != 0;
  options.reasoning_in_content = (flags & 24) == 24;
  if ((flags & 32) != 0) options.tools = {{"f", std::string(schema)}, {"g", "{}"}};
  options.num_history_tool_calls = flags >> 6;
  return options;
}

// Whatever the ids, a client must be able to follow the deltas.
void check_deltas(const std::vector<AssistantDelta>& deltas, int32_t num_tool_calls) {
  int32_t num_calls = 0;
  for (const AssistantDelta& delta : deltas) {
    TANDEM_CHECK(is_valid_utf8(delta.text), "whole characters");
    switch (delta.kind) {
      case AssistantDelta::Kind::kToolCallBegin:
        TANDEM_CHECK(delta.call_idx == num_calls++, "dense indices");
        TANDEM_CHECK(!delta.call_name.empty() && !delta.call_id.empty(), "a name and an id");
        break;
      case AssistantDelta::Kind::kToolCallArguments:
        TANDEM_CHECK(delta.call_idx == num_calls - 1 && !delta.text.empty(), "of the last call");
        break;
      case AssistantDelta::Kind::kContent:
        TANDEM_CHECK(!delta.text.empty(), "no empty content");
        break;
      case AssistantDelta::Kind::kReasoning:
        break;
    }
  }
  TANDEM_CHECK(num_calls == num_tool_calls, "the number of calls");
}

// input: flags, schema up to a NUL, then the answer; a byte >= 0xE0 is one of the markers.
void check_answer(const Tokenizer& tokenizer, std::string_view input) {
  const auto flags = static_cast<uint8_t>(input[0]);
  input.remove_prefix(1);
  const size_t cut = input.find('\0');
  const std::string_view schema = cut == std::string_view::npos ? "" : input.substr(0, cut);
  if (cut != std::string_view::npos) input.remove_prefix(cut + 1);
  AssistantParser parser(tokenizer, options_of(flags, schema));
  std::vector<AssistantDelta> deltas;
  for (size_t idx = 0; idx < input.size(); ++idx) {
    const auto byte = static_cast<uint8_t>(input[idx]);
    int32_t id = byte;
    if (byte >= 0xE0) id = 256 + byte % 32;  // the markers are the first 24 added tokens
    parser.push(id, deltas);
  }
  parser.finish(deltas);
  check_deltas(deltas, parser.num_tool_calls());
}

void check_tools(std::string_view text) {
  try {
    const std::string canonical = canonical_tools_json(text);
    TANDEM_CHECK(is_valid_utf8(canonical), "UTF-8");
    if (canonical.find("Infinity") != std::string::npos) return;  // as Python writes 1e999
    TANDEM_CHECK(canonical_tools_json(canonical) == canonical, "the canonical form is a fixpoint");
  } catch (const std::invalid_argument&) {
  }
}

}  // namespace
}  // namespace tandem

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const tandem::Tokenizer& tokenizer = tandem::tests::byte_tokenizer();
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.empty()) return 0;
  if (input[0] == '[' || input[0] == '{') {
    tandem::check_tools(input);
  } else {
    tandem::check_answer(tokenizer, input);
  }
  return 0;
}
