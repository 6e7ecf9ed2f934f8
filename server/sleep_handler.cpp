#include "server/sleep_handler.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "server/dialects.h"
#include "server/http/json_writer.h"
#include "server/session.h"
#include "server/sleep_request.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;

// An order's outcome, from whatever thread it comes to the session's strand.
class OutcomeWait {
 public:
  explicit OutcomeWait(const asio::any_io_executor& strand)
      : state_(std::make_shared<State>()), timer_(std::make_shared<asio::steady_timer>(strand)) {
    state_->timer = timer_;
  }
  // From here on an outcome touches nothing of Asio: the engine may outlive the server.
  ~OutcomeWait() {
    const std::lock_guard lock(state_->mutex);
    state_->timer.reset();
  }
  OutcomeWait(const OutcomeWait&) = delete;
  OutcomeWait& operator=(const OutcomeWait&) = delete;

  [[nodiscard]] SleepDone done() {
    return [state = state_](const SleepOutcome& outcome) {
      const std::lock_guard lock(state->mutex);
      if (!state->timer) return;
      state->outcome = outcome;
      asio::post(state->timer->get_executor(), [timer = state->timer] { timer->cancel(); });
    };
  }

  asio::awaitable<SleepOutcome> wait() {
    while (true) {
      {
        const std::lock_guard lock(state_->mutex);
        if (state_->outcome) co_return *state_->outcome;
      }
      // The wake-up is posted to the strand that we hold: it cannot come before the wait begins.
      timer_->expires_at(asio::steady_timer::time_point::max());
      co_await timer_->async_wait(asio::as_tuple(asio::use_awaitable));
    }
  }

 private:
  struct State {
    std::mutex mutex;
    std::shared_ptr<asio::steady_timer> timer;  // null when nobody waits any more
    std::optional<SleepOutcome> outcome;
  };
  const std::shared_ptr<State> state_;
  const std::shared_ptr<asio::steady_timer> timer_;
};

ApiError error_of(const SleepOutcome& outcome) {
  ApiError error;
  switch (outcome.kind) {
    case SleepOutcome::Kind::kDone:
      break;
    case SleepOutcome::Kind::kCalledOff:
      error = server_error(409, outcome.message, "woken");
      break;
    case SleepOutcome::Kind::kNotWoken:
      error = server_error(
          503, fmt::format("the model could not be woken and is asleep: {}", outcome.message),
          "wake_failed");
      break;
    case SleepOutcome::Kind::kEnded:
      error = server_error(503, outcome.message, "engine_failed");
      break;
  }
  return error;
}

// Gives the order; what is not to wait for is done already.
std::optional<ApiError> give_order(ServerState& state,
                                   Endpoint endpoint,
                                   std::string_view query,
                                   std::string_view body,
                                   SleepDone done) {
  Engine& engine = state.engine();
  UnknownKeys& unknown_keys = state.unknown_keys();
  if (endpoint == Endpoint::kWakeUp) {
    const auto memory = unknown_keys.judged([&] { return read_wake_request(query, body); });
    if (!memory) return memory.error();
    engine.wake_up(*memory, std::move(done));
    return std::nullopt;
  }
  const auto request = unknown_keys.judged([&] { return read_sleep_request(query, body); });
  if (!request) return request.error();
  if (!request->memory.any()) {
    done({});
    return std::nullopt;
  }
  // What an answer would go on to ask for as well.
  if (request->mode == SleepMode::kAbort) state.answers().abort_all(engine);
  engine.sleep(request->memory, request->mode, std::move(done));
  return std::nullopt;
}

}  // namespace

asio::awaitable<bool> serve_sleep_order(Session& session,
                                        Endpoint endpoint,
                                        std::string query,
                                        std::string body) {
  const auto begin = std::chrono::steady_clock::now();
  const Dialect& dialect = dialect_of(endpoint);
  OutcomeWait outcome_wait(session.executor());
  if (const auto error = give_order(session.state(), endpoint, query, body, outcome_wait.done())) {
    co_return co_await session.send(error_response(*error, dialect));
  }
  const SleepOutcome outcome = co_await outcome_wait.wait();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  const std::string_view what = endpoint == Endpoint::kWakeUp ? "wake-up" : "sleep";
  if (outcome.kind != SleepOutcome::Kind::kDone) {
    spdlog::warn("{} failed after {:.2f} s: {}", what, elapsed.count(), outcome.message);
    co_return co_await session.send(error_response(error_of(outcome), dialect));
  }
  spdlog::info("{} done in {:.2f} s", what, elapsed.count());
  HttpResponse response;
  JsonWriter json(response.body);
  json.begin_object().key("success").boolean(true).key("is_sleeping");
  json.boolean(is_sleeping(session.state().engine().stats().sleep_state)).end_object();
  co_return co_await session.send(std::move(response));
}

}  // namespace tandem::server
