#include "server/server_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "runtime/base/check.h"
#include "server/session.h"

namespace tandem::server {

namespace {

std::string name_of(const ServerOptions& options) {
  return options.served_model_names.empty() ? "tandem" : options.served_model_names.front();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(std::move(line));
  return lines;
}

}  // namespace

ServerState::ServerState(ServerOptions server_options)
    : options(std::move(server_options)),
      metrics(std::make_shared<Metrics>(name_of(options))),
      request_log(options.request_log_path.empty()
                      ? nullptr
                      : std::make_unique<RequestLog>(
                            options.request_log_path,
                            [counts = metrics] { counts->count_dropped_log_line(); })),
      spans(options.otlp_traces_url.empty() ? nullptr
                                            : std::make_unique<SpanExporter>(SpanExporter::Options{
                                                  .url = options.otlp_traces_url,
                                                  .service_name = "tandem",
                                                  .on_dropped =
                                                      [counts = metrics](int64_t num_spans) {
                                                        counts->count_dropped_spans(num_spans);
                                                      }})),
      request_id_base_(std::random_device()()),
      unknown_keys_(std::make_unique<UnknownKeys>(options.strict_params)) {}

void ServerState::set_ready(const ServingModel& model) {
  TANDEM_CHECK(model.engine != nullptr && model.tokenizer != nullptr, "a model without its parts");
  TANDEM_CHECK(phase() == Phase::kLoading, "set_ready() twice, or after set_failed()");
  engine_ = model.engine;
  model_.tokenizer = model.tokenizer;
  model_.vocab_size = model.engine->model().vocab_size();
  model_.max_context_tokens = model.engine->max_context_tokens();
  model_.names = options.served_model_names;
  if (model_.names.empty()) model_.names.push_back(name_of(options));
  model_.stop_token_ids = model.stop_token_ids;
  model_.generation_prompt_opens_think = model.generation_prompt_opens_think;
  model_.created_unix_s = model.created_unix_s;
  model_type_ = model.model_type;
  placement_ = lines_of(model.engine->model().description());
  model_.max_n = options.max_n;
  model_.max_choices = model.engine->options().max_queued_requests;
  model_.max_logprobs = options.max_logprobs;
  model_.preserve_thinking = options.preserve_thinking;
  model_.force_include_usage = options.force_include_usage;
  model_.stream_interval = options.stream_interval;
  const int num_threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 4);
  grammars_ = std::make_unique<GrammarCompiler>(
      *model.tokenizer, model_.vocab_size, GrammarCompiler::Options{.num_threads = num_threads});
  model_.grammars = grammars_.get();
  phase_.store(Phase::kReady, std::memory_order_release);
}

void ServerState::end_sleeping_answers() {
  if (phase() != Phase::kReady || !is_sleeping(engine().stats().sleep_state)) return;
  answers().abort_all(engine());
}

void ServerState::set_failed(const std::string& message) {
  {
    const std::lock_guard lock(mutex_);
    failure_ = message;
  }
  phase_.store(Phase::kFailed, std::memory_order_release);
}

std::string ServerState::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

bool ServerState::has_room_for_session() const {
  const std::lock_guard lock(mutex_);
  return sessions_.size() < static_cast<size_t>(options.max_connections);
}

void ServerState::add_session(const std::shared_ptr<Session>& session) {
  const std::lock_guard lock(mutex_);
  sessions_.emplace(session.get(), session);
}

void ServerState::remove_session(Session* session) {
  const std::lock_guard lock(mutex_);
  sessions_.erase(session);
}

void ServerState::for_each_session(const std::function<void(Session&)>& visit) {
  std::vector<std::shared_ptr<Session>> alive;  // outside the lock: the last owner may go in visit
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [pointer, session] : sessions_) {
      if (auto owner = session.lock()) alive.push_back(std::move(owner));
    }
  }
  for (const auto& session : alive) visit(*session);
}

bool ServerState::BodyMemory::grow_to(int64_t size_bytes) {
  const int64_t growth_bytes = size_bytes - size_bytes_;
  if (growth_bytes <= 0) return true;
  const int64_t before_bytes = state_.body_size_bytes_.fetch_add(growth_bytes);
  if (before_bytes + growth_bytes > state_.options.max_total_body_size_bytes) {
    state_.body_size_bytes_ -= growth_bytes;
    return false;
  }
  size_bytes_ = size_bytes;
  return true;
}

std::string ServerState::next_request_id() {
  return fmt::format("req-{:08x}-{}", request_id_base_, ++num_request_ids_);
}

void ServerState::begin_request() {
  const std::lock_guard lock(mutex_);
  ++num_active_requests_;
}

void ServerState::end_request() {
  const std::lock_guard lock(mutex_);
  if (--num_active_requests_ == 0) idle_.notify_all();
}

bool ServerState::wait_until_idle(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  idle_.wait_for(lock, timeout, [this] { return num_active_requests_ == 0 || waiting_given_up_; });
  return num_active_requests_ == 0;
}

void ServerState::give_up_waiting() {
  const std::lock_guard lock(mutex_);
  waiting_given_up_ = true;
  idle_.notify_all();
}

int ServerState::num_active_requests() const {
  const std::lock_guard lock(mutex_);
  return num_active_requests_;
}

}  // namespace tandem::server
