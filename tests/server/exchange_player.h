// Plays text with markers as the model's tokens into an exchange of any dialect, streamed and not:
// what a client would read, without a server.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/exchange.h"

namespace tandem::tests {

// Over byte_tokenizer(), 16384 tokens of context, names "tiny" and "org/tiny-kimi".
server::ServedModel byte_model();

struct NamedEvent {
  std::string name;  // of the `event:` line, "" when there is none
  boost::json::value data;
};
// Every frame is checked to be one that line readers take; comments and [DONE] are left out.
std::vector<NamedEvent> named_events(std::string_view frames);

struct Playback {
  boost::json::value whole;  // of the answer not streamed
  std::string frames;        // of the same answer streamed
  std::vector<NamedEvent> events;
};

struct PlayOptions {
  FinishReason reason = FinishReason::kStop;  // how the engine ends
  int32_t cached_tokens = 5;
  std::string error = "the server is shutting down";  // said with kAborted
};

// `body` is a JSON object; "stream" is set here. The engine says a prompt of 11 tokens. A failed
// answer leaves `whole` null.
Playback play_exchange(server::OpenExchange open,
                       const boost::json::value& body,
                       std::string_view answer,
                       const PlayOptions& options = {});

// The same over a model that lives longer than one answer.
Playback play_exchange(server::OpenExchange open,
                       const server::ServedModel& model,
                       const boost::json::value& body,
                       std::string_view answer,
                       const PlayOptions& options = {});

// What the engine would be asked: the prompt's tokens.
std::vector<int32_t> prompt_of(server::OpenExchange open,
                               const server::ServedModel& model,
                               const boost::json::value& body);

}  // namespace tandem::tests
