#include "server/chat_handler.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <exception>
#include <optional>
#include <vector>

#include "server/http/sse.h"
#include "server/openai/chat_completion.h"
#include "server/session.h"
#include "server/token_channel.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;

constexpr size_t kInlineInputBytes = 16 << 10;  // about 2 ms of parsing and tokenising

// The engine requests of one answer; what still runs when it goes out of scope is aborted.
class EngineRequests {
 public:
  EngineRequests(Engine& engine, std::shared_ptr<TokenChannel> channel)
      : engine_(engine), channel_(std::move(channel)) {}
  ~EngineRequests() {
    channel_->close();
    for (const Engine::RequestId id : ids_) engine_.abort(id);  // unknown ids are ignored
  }
  EngineRequests(const EngineRequests&) = delete;
  EngineRequests& operator=(const EngineRequests&) = delete;

  std::optional<ApiError> submit(const PreparedChat& chat, const ServedModel& model) {
    for (int32_t choice_idx = 0; choice_idx < chat.request.n; ++choice_idx) {
      GenerationRequest request = generation_request(chat, model, choice_idx);
      request.sink = channel_->make_sink(choice_idx);
      auto submitted = engine_.submit(std::move(request));
      if (!submitted) return from_submit_error(submitted.error());
      ids_.push_back(*submitted);
    }
    return std::nullopt;
  }
  void abort(int32_t choice_idx) { engine_.abort(ids_[static_cast<size_t>(choice_idx)]); }

 private:
  Engine& engine_;
  std::shared_ptr<TokenChannel> channel_;
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

// Relays events until every choice has ended; false when the client has gone.
asio::awaitable<bool> relay(Session& session,
                            TokenChannel& channel,
                            EngineRequests& requests,
                            ChatCompletion& completion,
                            bool stream) {
  const auto interval = session.state().options.sse_keep_alive_interval;
  std::vector<ChoiceEvent> events;
  std::string frames;
  while (!completion.finished()) {
    const TokenChannel::Wake wake = co_await channel.wait(interval);
    if (wake == TokenChannel::Wake::kGone) co_return false;
    if (wake == TokenChannel::Wake::kTimeout) {
      if (stream && !co_await session.write_events(kSseKeepAlive)) co_return false;
      continue;
    }
    channel.take(events);
    frames.clear();
    for (const ChoiceEvent& event : events) {
      if (completion.finished()) break;
      if (completion.push(event.choice_idx, event.event, frames)) requests.abort(event.choice_idx);
    }
    if (!frames.empty() && !co_await session.write_events(frames)) co_return false;
  }
  co_return true;
}

asio::awaitable<bool> write_end(Session& session, const ChatCompletion& completion, bool stream) {
  if (completion.error() && !session.events_begun()) {
    co_return co_await session.send(error_response(*completion.error()));
  }
  if (!stream) {
    HttpResponse response;
    response.body = completion.body();
    co_return co_await session.send(std::move(response));
  }
  std::string frames;
  completion.append_stream_end(frames);
  if (!co_await session.write_events(frames)) co_return false;
  const bool keep_alive = co_await session.end_events();
  co_return keep_alive && !completion.error();
}

}  // namespace

asio::awaitable<void> run_maybe_on_worker(Session& session,
                                          size_t input_size_bytes,
                                          const std::function<void()>& work) {
  if (input_size_bytes <= kInlineInputBytes) {
    work();
    co_return;
  }
  // Both coroutines live until `work` is done: the references stay good.
  auto run = [&work]() -> asio::awaitable<void> {
    work();
    co_return;
  };
  co_await asio::co_spawn(session.workers().get_executor(), run, asio::use_awaitable);
}

asio::awaitable<bool> serve_chat(Session& session, std::string body) {
  const auto begin = std::chrono::steady_clock::now();
  const ServedModel& model = session.state().model();
  std::optional<PreparedChat> chat;
  ApiError error;
  const std::function<void()> prepare = [&] {
    try {
      auto prepared = prepare_chat(body, model);
      if (prepared) {
        chat = std::move(*prepared);
      } else {
        error = prepared.error();
      }
    } catch (const std::exception& failure) {
      error = server_error(500, failure.what(), "internal_error");
    }
  };
  co_await run_maybe_on_worker(session, body.size(), prepare);
  if (!chat) co_return co_await session.send(error_response(error));
  std::string().swap(body);

  auto channel = std::make_shared<TokenChannel>(
      session.executor(), static_cast<size_t>(session.state().options.max_buffered_events),
      [weak = session.weak_from_this()] {
        if (const auto owner = weak.lock()) owner->cut();
      });
  EngineRequests requests(session.state().engine(), channel);
  if (const auto refused = requests.submit(*chat, model)) {
    co_return co_await session.send(error_response(*refused));
  }
  ChatCompletion completion(*chat, model);
  bool complete = false;
  {
    const ClientWatch watch(session, channel);
    complete = co_await relay(session, *channel, requests, completion, chat->request.stream);
  }
  const auto elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin);
  const TokenUsage usage = completion.total_usage();
  spdlog::info("{} {}: prompt {} ({} cached), completion {}, {:.2f} s", completion.id(),
               complete ? (completion.error() ? "failed" : "done") : "client gone",
               usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, elapsed.count());
  if (!complete) co_return false;
  co_return co_await write_end(session, completion, chat->request.stream);
}

}  // namespace tandem::server
