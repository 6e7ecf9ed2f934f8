// What the choices of chat and text completions have in common, beside their text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/chat/chat_choice.h"
#include "server/http/json_writer.h"

namespace tandem::server {

// "stop", "length", "tool_calls", "repetition" or "abort".
std::string_view finish_reason(ChatChoice::End end);

// ,"stop_reason": the stop string that was met, the request's own stop token, or null.
void append_stop_reason(std::string& out, const ChatChoice& choice);

// ,"NAME":[1,2,3]
void append_ids(std::string& out, std::string_view name, std::span<const int32_t> ids);

// A probability of zero has no JSON number; -9999 is what the field uses.
double finite_logprob(float logprob);
// prompt_logprobs may have made the engine tell more than an answer's tokens are to have.
std::span<const TokenLogprob> best_logprobs(const TokenEvent& token, int32_t num_wanted);

// [null,{"123":{"logprob":-0.25,"rank":1,"decoded_token":" the"},...},...], as vLLM writes them:
// nothing for the first token, which follows nothing; of the others, which `tokens` are, the token
// itself and the best.
void write_prompt_logprobs(JsonWriter& json,
                           const Tokenizer& tokenizer,
                           std::span<const TokenEvent> tokens,
                           int32_t num_best);

}  // namespace tandem::server
