// A sink that keeps everything and lets a test wait for the end.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/engine/token_sink.h"

namespace tandem::tests {

class CollectingSink final : public TokenSink {
 public:
  // `accepts(num_tokens)`, called for every token with the number taken before, may refuse it.
  explicit CollectingSink(std::function<bool(size_t)> accepts = nullptr)
      : accepts_(std::move(accepts)) {}

  bool push(TokenEvent event) noexcept override {
    if (event.kind == TokenEvent::Kind::kToken && accepts_ && !accepts_(num_tokens())) return false;
    const std::lock_guard lock(mutex_);
    if (event.kind == TokenEvent::Kind::kFinished) {
      ++num_finished_;
      last_event_ = std::move(event);
    } else {
      if (num_finished_ > 0) has_token_after_end_ = true;
      tokens_.push_back(std::move(event));
    }
    changed_.notify_all();
    return true;
  }

  // The last event; fails by returning kError "timed out" after 20 s.
  TokenEvent wait() {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kTimeout, [this] { return num_finished_ > 0; })) return last_event_;
    TokenEvent event;
    event.finish_reason = FinishReason::kError;
    event.error = "timed out";
    return event;
  }
  bool wait_for_tokens(size_t num_tokens) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kTimeout, [&] { return tokens_.size() >= num_tokens; });
  }

  [[nodiscard]] size_t num_tokens() const {
    const std::lock_guard lock(mutex_);
    return tokens_.size();
  }
  [[nodiscard]] std::vector<int32_t> token_ids() const {
    const std::lock_guard lock(mutex_);
    std::vector<int32_t> token_ids;
    for (const TokenEvent& event : tokens_) token_ids.push_back(event.token_id);
    return token_ids;
  }
  [[nodiscard]] std::vector<TokenEvent> tokens() const {
    const std::lock_guard lock(mutex_);
    return tokens_;
  }
  [[nodiscard]] int num_finished() const {
    const std::lock_guard lock(mutex_);
    return num_finished_;
  }
  [[nodiscard]] bool has_token_after_end() const {
    const std::lock_guard lock(mutex_);
    return has_token_after_end_;
  }

 private:
  static constexpr std::chrono::seconds kTimeout{120};

  std::function<bool(size_t)> accepts_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TokenEvent> tokens_;
  TokenEvent last_event_;
  int num_finished_ = 0;
  bool has_token_after_end_ = false;
};

}  // namespace tandem::tests
