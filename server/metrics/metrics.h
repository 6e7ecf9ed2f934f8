// What /metrics says, under the names of vLLM with `tandem:` in place of `vllm:`
// (serving/spec.md §4.7). Thread-safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/engine/engine.h"
#include "runtime/engine/token_sink.h"

namespace tandem::server {

class Metrics {
 public:
  explicit Metrics(const std::string& model_name);

  void count_response(std::string_view route, int status);
  void count_invalid_calls(int64_t num_calls);
  void count_dropped_log_line();
  void count_dropped_spans(int64_t num_spans);
  // Everything counted, and what the engine says of itself at this moment, as Prometheus text.
  [[nodiscard]] std::string text(const std::optional<EngineStats>& engine) const;

 private:
  friend class RequestMetrics;

  const std::string model_name_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& responses_;
  prometheus::Family<prometheus::Counter>& finished_;
  prometheus::Counter& stop_;
  prometheus::Counter& length_;
  prometheus::Counter& repetition_;
  prometheus::Counter& abort_;
  prometheus::Counter& error_;
  prometheus::Counter& invalid_calls_;
  prometheus::Counter& dropped_log_lines_;
  prometheus::Counter& dropped_spans_;
  prometheus::Histogram& time_to_first_token_;
  prometheus::Histogram& inter_token_latency_;
  prometheus::Histogram& e2e_latency_;
  prometheus::Histogram& queue_time_;
  prometheus::Histogram& request_prompt_tokens_;
  prometheus::Histogram& request_generation_tokens_;
};

// One engine request, from its making to its last event. Events come on the engine thread.
class RequestMetrics {
 public:
  explicit RequestMetrics(std::shared_ptr<Metrics> metrics);

  void on_event(const TokenEvent& event);
  // The answer is complete and the server aborts what the engine would go on with: a stop.
  void answer_is_complete() { complete_.store(true, std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  void on_finished(const TokenEvent& event, Clock::time_point now);

  std::shared_ptr<Metrics> metrics_;
  const Clock::time_point begin_;
  Clock::time_point last_token_;
  bool has_token_ = false;
  std::atomic<bool> complete_{false};
};

}  // namespace tandem::server
