// Generated answers for the parser's tests: token sequences of one text cut in many ways, and the
// message that deltas add up to.
#pragma once

#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/assistant_parser.h"

namespace tandem::tests {

// What a client has after all deltas.
struct Answer {
  struct Call {
    std::string id, name, arguments;
    bool operator==(const Call&) const = default;
  };
  std::optional<std::string> reasoning{};  // nothing without a thinking part
  std::string content{};
  std::vector<Call> calls{};
  bool operator==(const Answer&) const = default;
};

// Adds deltas up; fails the test when one breaks the order of a stream (arguments before their
// call's begin, an index that is not dense, half a character, an empty piece).
void add_delta(const AssistantDelta& delta, Answer& answer);

// A tokenizer whose vocabulary has the pieces of several segmentations of one text, so that one
// text can be fed as many token sequences. Markers are always their own token.
class CutText {
 public:
  // `chunks` (joined) is the text; the segmentations are: by byte, by chunk, each stretch between
  // markers whole, and `num_random` random ones.
  CutText(const std::vector<std::string>& chunks, int num_random, uint32_t seed);

  [[nodiscard]] const Tokenizer& tokenizer() const { return *tokenizer_; }
  [[nodiscard]] const std::vector<std::vector<int32_t>>& sequences() const { return sequences_; }
  [[nodiscard]] const std::vector<int32_t>& by_chunk() const { return sequences_[1]; }

 private:
  std::optional<Tokenizer> tokenizer_;
  std::vector<std::vector<int32_t>> sequences_;
};

// Runs the parser over one token sequence.
Answer parse_answer(const Tokenizer& tokenizer,
                    const AssistantParserOptions& options,
                    const std::vector<int32_t>& ids,
                    std::vector<AssistantDelta>* deltas = nullptr);

}  // namespace tandem::tests
