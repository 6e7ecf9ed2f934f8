#include "server/exchange_handler.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <exception>
#include <optional>
#include <vector>

#include "server/request_log/request_record.h"
#include "server/request_threads.h"
#include "server/session.h"
#include "server/token_channel.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;

constexpr size_t kInlineInputBytes = 16 << 10;  // about 2 ms of parsing and tokenising

// A request's line in the request log and its span, written when this goes out of scope: every way
// out of a handler is an end. Nothing where neither is wanted.
class LoggedRequest {
 public:
  LoggedRequest(Session& session, std::string_view endpoint, const std::string& body)
      : state_(session.state()) {
    if (state_.spans != nullptr) trace_ = trace_context_of(session.traceparent());
    if (trace_ && !trace_->sampled) trace_.reset();
    if (state_.request_log == nullptr && !trace_) return;
    record_ = std::make_shared<RequestRecord>(std::string(endpoint), session.request_id(),
                                              state_.options.log_content);
    record_->keep_body(body);
  }
  ~LoggedRequest() {
    if (!record_) return;
    if (exchange_ != nullptr) {
      record_->end(exchange_->error(), client_gone_, exchange_->usage());
    } else {
      record_->end(error_, false, {});
    }
    if (trace_) state_.spans->send(record_->to_span_json(*trace_));
    if (state_.request_log == nullptr) return;
    const auto make_line = [record = std::shared_ptr<const RequestRecord>(record_),
                            tokenizer = state_.model().tokenizer] {
      return record->to_json_line(tokenizer);
    };
    state_.request_log->write(record_->size_bytes(), make_line);
  }
  LoggedRequest(const LoggedRequest&) = delete;
  LoggedRequest& operator=(const LoggedRequest&) = delete;

  // `exchange` outlives this.
  void opened(const Exchange& exchange) {
    exchange_ = &exchange;
    client_gone_ = true;  // until it has ended otherwise
    if (record_)
      record_->note_answer(exchange.id(), state_.model().names.front(), exchange.streams());
  }
  void submitting(const GenerationRequest& request) {
    if (record_) record_->note_request(request);
  }
  void event(const ChoiceEvent& event) {
    if (record_) record_->note_event(event.choice_idx, event.event);
  }
  void complete(int32_t choice_idx) {
    if (record_) record_->note_complete(choice_idx);
  }
  void refused(ApiError error) { error_ = std::move(error); }
  void ended() { client_gone_ = false; }

 private:
  ServerState& state_;
  std::optional<TraceContext> trace_;  // of a span that is wanted
  std::shared_ptr<RequestRecord> record_;
  const Exchange* exchange_ = nullptr;
  std::optional<ApiError> error_;
  bool client_gone_ = false;
};

// The engine requests of one answer; what still runs when it goes out of scope is aborted.
class EngineRequests {
 public:
  EngineRequests(Engine& engine,
                 std::shared_ptr<TokenChannel> channel,
                 RunningAnswers::Entry& entry,
                 LoggedRequest& log)
      : engine_(engine), answer_(engine), channel_(std::move(channel)), entry_(entry), log_(log) {}
  ~EngineRequests() {
    channel_->close();
    for (const Engine::RequestId id : ids_) engine_.abort(id);  // unknown ids are ignored
  }
  EngineRequests(const EngineRequests&) = delete;
  EngineRequests& operator=(const EngineRequests&) = delete;

  // What the exchange asks for now; one that the engine does not take fails the exchange.
  void submit_due(Exchange& exchange) {
    for (GenerationRequest& request : exchange.take_requests()) {
      log_.submitting(request);
      request.sink = channel_->make_sink(static_cast<int32_t>(ids_.size()));
      auto submitted = answer_.submit(std::move(request));
      if (!submitted) return exchange.fail(from_submit_error(submitted.error()));
      ids_.push_back(*submitted);
      entry_.add(engine_, *submitted);
    }
  }
  // Of an answer in several passes that was aborted in one of them: the next ends before it begins.
  void end_due(Exchange& exchange, std::string& frames) {
    TokenEvent aborted;
    aborted.kind = TokenEvent::Kind::kFinished;
    aborted.finish_reason = FinishReason::kAborted;
    const size_t num_due = exchange.take_requests().size();
    for (size_t due_idx = 0; due_idx < num_due; ++due_idx)
      static_cast<void>(
          exchange.push(static_cast<int32_t>(ids_.size() + due_idx), aborted, frames));
  }
  [[nodiscard]] bool aborted() const { return entry_.aborted(); }
  void end(int32_t choice_idx) {
    channel_->answer_is_complete(choice_idx);
    log_.complete(choice_idx);
    engine_.abort(ids_[static_cast<size_t>(choice_idx)]);
  }

 private:
  Engine& engine_;
  Engine::Answer answer_;
  std::shared_ptr<TokenChannel> channel_;
  RunningAnswers::Entry& entry_;
  LoggedRequest& log_;
  std::vector<Engine::RequestId> ids_;
};

class ClientWatch {
 public:
  ClientWatch(Session& session, const std::shared_ptr<TokenChannel>& channel) : session_(session) {
    session_.watch_client(channel);
  }
  ~ClientWatch() { session_.unwatch_client(); }
  ClientWatch(const ClientWatch&) = delete;
  ClientWatch& operator=(const ClientWatch&) = delete;

 private:
  Session& session_;
};

// False when the client has gone: while it was waiting for a thread, nothing has been prepared.
asio::awaitable<bool> prepare(Session& session, const TokenChannel& channel, Exchange& exchange) {
  co_await session.request_threads().run(RequestThreads::Kind::kPreparation, [&] {
    if (!channel.is_client_gone()) exchange.prepare();
  });
  co_return !channel.is_client_gone();
}

// Relays events until every choice has ended; false when the client has gone. Comments keep a
// stream alive while nothing of the answer can be shown: a long prefill, hidden thinking.
asio::awaitable<bool> relay(Session& session,
                            TokenChannel& channel,
                            EngineRequests& requests,
                            const Dialect& dialect,
                            Exchange& exchange,
                            LoggedRequest& log) {
  const auto interval = session.state().options.sse_keep_alive_interval;
  auto last_write = std::chrono::steady_clock::now();
  std::vector<ChoiceEvent> events;
  std::string frames;
  while (!exchange.finished()) {
    const TokenChannel::Wake wake = co_await channel.wait(interval);
    if (wake == TokenChannel::Wake::kGone) co_return false;
    frames.clear();
    channel.take(events);
    for (const ChoiceEvent& event : events) {
      if (exchange.finished()) break;
      log.event(event);
      if (exchange.push(event.choice_idx, event.event, frames)) requests.end(event.choice_idx);
    }
    if (!exchange.finished() && exchange.needs_preparation()) {
      if (!co_await prepare(session, channel, exchange)) co_return false;
    }
    if (!exchange.finished() && requests.aborted()) requests.end_due(exchange, frames);
    if (!exchange.finished()) requests.submit_due(exchange);
    const auto now = std::chrono::steady_clock::now();
    const bool is_silent = exchange.streams() && now - last_write >= interval;
    if (frames.empty() && is_silent) frames = dialect.keep_alive;
    if (frames.empty()) continue;
    last_write = now;
    if (!co_await session.write_events(frames)) co_return false;
  }
  co_return true;
}

asio::awaitable<bool> write_end(Session& session, const Dialect& dialect, Exchange& exchange) {
  if (exchange.error() && !session.events_begun()) {
    co_return co_await session.send(error_response(*exchange.error(), dialect));
  }
  if (!exchange.streams()) {
    HttpResponse response;
    response.body = exchange.body();
    co_return co_await session.send(std::move(response));
  }
  std::string frames;
  exchange.append_stream_end(frames);
  // An empty chunk would end the body before its end.
  if (!frames.empty() && !co_await session.write_events(frames)) co_return false;
  const bool keep_alive = co_await session.end_events();
  co_return keep_alive && !exchange.error();
}

}  // namespace

asio::awaitable<void> run_maybe_on_worker(Session& session,
                                          size_t input_size_bytes,
                                          const std::function<void()>& work) {
  if (input_size_bytes <= kInlineInputBytes) {
    work();
    co_return;
  }
  co_await session.request_threads().run(RequestThreads::Kind::kBody, work);
}

asio::awaitable<bool> serve_exchange(Session& session,
                                     const Dialect& dialect,
                                     std::string_view endpoint,
                                     std::string body) {
  const auto begin = std::chrono::steady_clock::now();
  const ServedModel& model = session.state().model();
  std::unique_ptr<Exchange> exchange;
  LoggedRequest log(session, endpoint, body);
  ApiError error;
  const std::function<void()> open = [&] {
    try {
      auto opened =
          session.state().unknown_keys().judged([&] { return dialect.open(body, model); });
      if (opened) {
        exchange = std::move(*opened);
      } else {
        error = opened.error();
      }
    } catch (const std::exception& failure) {
      error = server_error(500, failure.what(), "internal_error");
    }
  };
  co_await run_maybe_on_worker(session, body.size(), open);
  auto channel = std::make_shared<TokenChannel>(
      session.executor(), session.state().metrics,
      static_cast<size_t>(session.state().options.max_buffered_events),
      [weak = session.weak_from_this()] {
        if (const auto owner = weak.lock()) owner->cut();
      });
  bool prepared = true;
  if (exchange && exchange->needs_preparation()) {
    const ClientWatch watch(session, channel);
    prepared = co_await prepare(session, *channel, *exchange);
    if (exchange->error()) error = *exchange->error();
  }
  if (!exchange || exchange->error()) {
    log.refused(error);
    co_return co_await session.send(error_response(error, dialect));
  }
  log.opened(*exchange);
  if (!prepared) co_return false;
  std::string().swap(body);

  RunningAnswers::Entry entry(session.state().answers(), exchange->id(), session.request_id());
  bool complete = false;
  {
    EngineRequests requests(session.state().engine(), channel, entry, log);
    requests.submit_due(*exchange);
    const ClientWatch watch(session, channel);
    complete = co_await relay(session, *channel, requests, dialect, *exchange, log);
  }
  if (complete) log.ended();
  const auto elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin);
  session.state().metrics->count_invalid_calls(exchange->num_invalid_calls());
  const TokenUsage usage = exchange->usage();
  spdlog::info("{} {}: prompt {} ({} cached), completion {}, {:.2f} s", exchange->id(),
               complete ? (exchange->error() ? "failed" : "done") : "client gone",
               usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, elapsed.count());
  if (!complete) co_return false;
  co_return co_await write_end(session, dialect, *exchange);
}

}  // namespace tandem::server
