#include "server/token_channel.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

namespace tandem::server {

namespace asio = boost::asio;

class TokenChannel::Sink : public TokenSink {
 public:
  Sink(std::shared_ptr<TokenChannel> channel, int32_t choice_idx)
      : channel_(std::move(channel)), choice_idx_(choice_idx), metrics_(channel_->metrics_) {}

  bool push(TokenEvent event) noexcept override {
    try {
      metrics_.on_event(event);
      return channel_->push(choice_idx_, std::move(event));
    } catch (...) {  // no memory for one more event: this request goes, not the engine
      return false;
    }
  }

  void answer_is_complete() { metrics_.answer_is_complete(); }

 private:
  std::shared_ptr<TokenChannel> channel_;
  int32_t choice_idx_;
  RequestMetrics metrics_;
};

TokenChannel::TokenChannel(const asio::any_io_executor& strand,
                           std::shared_ptr<Metrics> metrics,
                           size_t capacity_events,
                           std::function<void()> on_overflow)
    : metrics_(std::move(metrics)),
      capacity_events_(capacity_events),
      timer_(std::make_shared<asio::steady_timer>(strand)),
      on_overflow_(std::move(on_overflow)) {}

std::shared_ptr<TokenSink> TokenChannel::make_sink(int32_t choice_idx) {
  auto sink = std::make_shared<Sink>(shared_from_this(), choice_idx);
  if (static_cast<size_t>(choice_idx) >= sinks_.size()) {
    sinks_.resize(static_cast<size_t>(choice_idx) + 1);
  }
  sinks_[static_cast<size_t>(choice_idx)] = sink;
  return sink;
}

void TokenChannel::answer_is_complete(int32_t choice_idx) {
  sinks_[static_cast<size_t>(choice_idx)]->answer_is_complete();
}

bool TokenChannel::push(int32_t choice_idx, TokenEvent event) {
  const std::lock_guard lock(mutex_);
  if (!timer_) return false;
  // The last event of a choice always finds room: there is one per choice.
  if (events_.size() >= capacity_events_ && event.kind != TokenEvent::Kind::kFinished) {
    if (!std::exchange(overflowed_, true)) {
      asio::post(timer_->get_executor(), [self = shared_from_this()] {
        std::function<void()> on_overflow;
        {
          const std::lock_guard inner_lock(self->mutex_);
          on_overflow = self->on_overflow_;
        }
        if (on_overflow) on_overflow();
      });
    }
    return false;
  }
  events_.push_back({choice_idx, std::move(event)});
  if (std::exchange(waiting_, false)) {
    asio::post(timer_->get_executor(), [timer = timer_] { timer->cancel(); });
  }
  return true;
}

asio::awaitable<TokenChannel::Wake> TokenChannel::wait(std::chrono::milliseconds timeout) {
  const std::shared_ptr<asio::steady_timer> timer = timer_;
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    {
      // Nothing can come between this look and the start of the wait below: wake-ups are posted to
      // the strand that we hold. A late wake-up of an earlier wait only repeats the look.
      const std::lock_guard lock(mutex_);
      if (gone_) co_return Wake::kGone;
      if (!events_.empty()) co_return Wake::kEvents;
      if (std::chrono::steady_clock::now() >= deadline) co_return Wake::kTimeout;
      waiting_ = true;
    }
    timer->expires_at(deadline);
    co_await timer->async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

void TokenChannel::take(std::vector<ChoiceEvent>& out) {
  out.clear();
  const std::lock_guard lock(mutex_);
  std::swap(out, events_);
}

void TokenChannel::client_gone() {
  const std::lock_guard lock(mutex_);
  gone_ = true;
  if (timer_) timer_->cancel();
}

bool TokenChannel::is_client_gone() const {
  const std::lock_guard lock(mutex_);
  return gone_;
}

void TokenChannel::close() {
  sinks_.clear();  // they hold the channel
  std::shared_ptr<asio::steady_timer> timer;
  std::function<void()> on_overflow;
  const std::lock_guard lock(mutex_);
  timer.swap(timer_);
  on_overflow.swap(on_overflow_);
  events_.clear();
}

}  // namespace tandem::server
