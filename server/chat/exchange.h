// One request on its way: what the engine is asked for it, and what the engine's events become in
// the dialect of the client. No sockets, no threads of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/engine.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_choice.h"
#include "server/chat/served_model.h"

namespace tandem::server {

class Exchange {
 public:
  virtual ~Exchange() = default;

  // What takes long before the next take_requests(), and would hold up other connections: a grammar
  // to compile, a long prompt made of answers. May fail() itself.
  [[nodiscard]] virtual bool needs_preparation() const { return false; }
  virtual void prepare() {}

  // Engine requests that are due, without their sinks: asked for at the start and after every batch
  // of events. Their choices are numbered in the order in which they come, from 0.
  virtual std::vector<GenerationRequest> take_requests() = 0;

  // Takes an event of one choice; for a stream, frames are appended. True when the engine should
  // abort that choice's sequence.
  virtual bool push(int32_t choice_idx, const TokenEvent& event, std::string& frames) = 0;
  virtual void fail(ApiError error) = 0;  // the engine did not take a request

  [[nodiscard]] virtual bool finished() const = 0;  // the answer is complete, or it has failed
  [[nodiscard]] virtual const std::optional<ApiError>& error() const = 0;

  [[nodiscard]] virtual bool streams() const = 0;
  // The frames behind the last event; with an error, those that say so.
  virtual void append_stream_end(std::string& frames) = 0;
  [[nodiscard]] virtual std::string body() const = 0;  // the whole answer, not streamed

  [[nodiscard]] virtual const std::string& id() const = 0;
  [[nodiscard]] virtual TokenUsage usage() const = 0;  // of all choices; the prompt counts once
  // Finished calls that do not satisfy their function's schema.
  [[nodiscard]] virtual int64_t num_invalid_calls() const { return 0; }
};

// What a dialect makes of a body: the slow part of a request on this side of the engine.
using OpenExchange = Result<std::unique_ptr<Exchange>, ApiError> (*)(std::string_view body,
                                                                     const ServedModel& model);

std::string new_id(std::string_view prefix);  // prefix and 32 random hexadecimal digits
// The same, with the client's id in place of the digits where it has one.
std::string answer_id(std::string_view prefix, std::string_view request_id);
int64_t unix_time_s();

}  // namespace tandem::server
