// A chat request whatever the dialect it came in.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/repetition.h"
#include "runtime/grammar/answer_grammar.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/tokenizer/chat.h"
#include "runtime/tokenizer/stop_pattern.h"

namespace tandem::server {

// What the checks need to know about this server.
struct RequestLimits {
  int32_t max_n = 8;
  int32_t least_max_tokens = 1;    // 0 where a prompt may be echoed alone
  int32_t vocab_size = 0;          // ids of logit_bias and stop_token_ids are below it
  int32_t max_logprobs = 20;       // of a token; -1: all of the vocabulary
  bool preserve_thinking = false;  // unless the request says otherwise
  bool force_include_usage = false;
};

// What a request says about generating, whether its prompt is a chat or plain text.
struct GenerationOptions {
  std::string model;  // "" when absent
  SamplingParams sampling;
  std::optional<int32_t> max_tokens;  // absent: what the context leaves
  int32_t min_tokens = 0;
  bool ignore_eos = false;
  RepetitionLimit repetition;
  int32_t n = 1;

  std::vector<std::string> stop;
  std::vector<std::shared_ptr<const StopPattern>> stop_patterns;
  std::vector<int32_t> stop_token_ids;
  bool include_stop_in_output = false;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  std::vector<std::string> bad_words;      // by their tokens, alone and behind a space
  std::optional<AnswerFormat> format;      // of the answer; of a chat, the text behind its thinking

  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;  // every chunk says what its choice has used so far
  int32_t stream_interval = 1;    // tokens of a chunk, at least
  bool return_token_ids = false;  // of the prompt and of each choice

  std::string request_id;  // the client's own, part of the answer's id; "" when absent
  int32_t priority = 0;    // lower ones go first
  std::string cache_salt;  // KV pages are shared with requests of the same salt alone
};

// Heavy Mode: answers side by side, then one made of them.
struct HeavyOptions {
  int32_t num_trajectories = 0;
  bool return_trajectories = false;
};

struct ChatRequest : GenerationOptions {
  ChatPrompt prompt;
  std::string_view prompt_field = "messages";  // as the dialect calls it
  std::vector<ToolDeclaration> tools;
  bool tool_calls_allowed = false;  // tools declared and tool_choice is not "none"
  bool parallel_tool_calls = true;
  bool call_required = false;               // the answer must be a call
  std::vector<std::string> callable_tools;  // names of declared tools; empty: all of them
  std::optional<int32_t> thinking_budget;   // tokens

  bool logprobs = false;
  int32_t top_logprobs = 0;
  int32_t prompt_logprobs = -1;  // -1: none; k: of every prompt token and the k best
  bool include_reasoning = true;
  bool separate_reasoning = true;  // false: thinking and its markers are part of the content
  bool stream_reasoning = true;    // false: all of it in one piece, at its end
  bool echo = false;               // the answer begins with a last message of its own role
  std::optional<HeavyOptions> heavy;
};

}  // namespace tandem::server
