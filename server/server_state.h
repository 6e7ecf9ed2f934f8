// What listener, sessions and handlers share. Owned by Server, outlives every coroutine.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/chat/served_model.h"
#include "server/metrics/metrics.h"
#include "server/request_log/request_log.h"
#include "server/running_answers.h"
#include "server/server.h"
#include "server/tracing/span_exporter.h"
#include "server/unknown_keys.h"

namespace tandem::server {

class Session;

class ServerState {
 public:
  explicit ServerState(ServerOptions server_options);

  enum class Phase { kLoading, kReady, kFailed };

  const ServerOptions options;
  const std::shared_ptr<Metrics> metrics;
  const std::unique_ptr<RequestLog> request_log;  // null: none is written
  const std::unique_ptr<SpanExporter> spans;      // null: none are sent
  std::atomic<double> loading_progress{0.0};
  std::atomic<bool> draining{false};

  [[nodiscard]] Phase phase() const { return phase_.load(std::memory_order_acquire); }
  void set_ready(const ServingModel& model);
  void set_failed(const std::string& message);
  [[nodiscard]] std::string failure() const;

  [[nodiscard]] RunningAnswers& answers() const { return *answers_; }
  [[nodiscard]] UnknownKeys& unknown_keys() const { return *unknown_keys_; }

  // Valid once phase() has been kReady.
  [[nodiscard]] Engine& engine() const { return *engine_; }
  [[nodiscard]] const ServedModel& model() const { return model_; }
  [[nodiscard]] const std::string& model_type() const { return model_type_; }
  // Lines of ForwardModel::description() at the start: what of the model is where.
  [[nodiscard]] const std::vector<std::string>& placement() const { return placement_; }
  // Those that a sleeping model was to go on with.
  void end_sleeping_answers();

  // Sessions that are open, so that drain() can close the idle ones. The listener alone adds.
  [[nodiscard]] bool has_room_for_session() const;
  void add_session(const std::shared_ptr<Session>& session);
  void remove_session(Session* session);
  void for_each_session(const std::function<void(Session&)>& visit);

  // What the bodies of all requests under way take, bounded by max_total_body_size_bytes.
  class BodyMemory {
   public:
    explicit BodyMemory(ServerState& state) : state_(state) {}
    ~BodyMemory() { state_.body_size_bytes_ -= size_bytes_; }
    BodyMemory(const BodyMemory&) = delete;
    BodyMemory& operator=(const BodyMemory&) = delete;
    bool grow_to(int64_t size_bytes);  // false: beyond the bound, nothing is taken

   private:
    ServerState& state_;
    int64_t size_bytes_ = 0;
  };

  std::string next_request_id();  // for requests that come without one

  // Requests between their first header byte and the last byte of their answer.
  void begin_request();
  void end_request();
  // False when requests still run after `timeout` or when give_up_waiting() was called.
  bool wait_until_idle(std::chrono::milliseconds timeout);
  void give_up_waiting();
  [[nodiscard]] int num_active_requests() const;

 private:
  std::atomic<Phase> phase_{Phase::kLoading};
  std::atomic<int64_t> body_size_bytes_{0};
  std::atomic<uint64_t> num_request_ids_{0};
  const uint32_t request_id_base_;
  const std::unique_ptr<RunningAnswers> answers_ = std::make_unique<RunningAnswers>();
  const std::unique_ptr<UnknownKeys> unknown_keys_;
  Engine* engine_ = nullptr;
  std::unique_ptr<GrammarCompiler> grammars_;
  ServedModel model_;
  std::string model_type_;
  std::vector<std::string> placement_;

  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::string failure_;
  std::unordered_map<Session*, std::weak_ptr<Session>> sessions_;
  int num_active_requests_ = 0;
  bool waiting_given_up_ = false;
};

}  // namespace tandem::server
