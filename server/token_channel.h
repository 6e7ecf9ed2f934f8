// From the engine thread to a session's strand: a bounded queue of token events. The engine never
// waits; a client that lets the queue fill up is cut off.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/engine/token_sink.h"
#include "server/metrics/metrics.h"

namespace tandem::server {

struct ChoiceEvent {
  int32_t choice_idx = 0;
  TokenEvent event;
};

class TokenChannel : public std::enable_shared_from_this<TokenChannel> {
 public:
  enum class Wake { kEvents, kGone, kTimeout };

  // `on_overflow` runs on the strand when the queue was full once.
  TokenChannel(const boost::asio::any_io_executor& strand,
               std::shared_ptr<Metrics> metrics,
               size_t capacity_events,
               std::function<void()> on_overflow);

  // The engine's end for one choice. Keeps the channel alive, but after close() nothing of Asio.
  std::shared_ptr<TokenSink> make_sink(int32_t choice_idx);

  // On the strand, one at a time: until events are there, the client has gone or time is up.
  boost::asio::awaitable<Wake> wait(std::chrono::milliseconds timeout);
  // Moves out all events that wait; `out` gives its memory in exchange.
  void take(std::vector<ChoiceEvent>& out);
  // The server is about to abort this choice since its answer is complete: counts as a stop.
  void answer_is_complete(int32_t choice_idx);
  void client_gone();                         // on the strand
  [[nodiscard]] bool is_client_gone() const;  // thread-safe
  void close();                               // from here on the sinks refuse

 private:
  class Sink;
  bool push(int32_t choice_idx, TokenEvent event);

  const std::shared_ptr<Metrics> metrics_;
  const size_t capacity_events_;
  std::vector<std::shared_ptr<Sink>> sinks_;  // by choice, until close()
  mutable std::mutex mutex_;
  // Shared with handlers in flight; null after close(), so that a late sink touches no io_context.
  std::shared_ptr<boost::asio::steady_timer> timer_;
  std::function<void()> on_overflow_;
  std::vector<ChoiceEvent> events_;
  bool waiting_ = false;
  bool gone_ = false;
  bool overflowed_ = false;
};

}  // namespace tandem::server
