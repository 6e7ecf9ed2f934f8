#include "runtime/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

#include "runtime/engine/request_check.h"
#include "runtime/engine/step_loop.h"

namespace tandem {
namespace {

RequestLimits request_limits(const ForwardModel& model) {
  const int64_t kv_tokens = int64_t{model.num_kv_pages()} * kPageSizeTokens;
  return {.vocab_size = model.vocab_size(),
          .max_context_tokens =
              static_cast<int32_t>(std::min<int64_t>(model.max_context_tokens(), kv_tokens))};
}

}  // namespace

// The mutex guards what crosses threads: the mail to the engine thread and what it publishes. It is
// never held while the model computes or a sink is called.
struct Engine::Impl {
  Impl(ForwardModel& model_in, const EngineOptions& options_in)
      : model(model_in),
        options(options_in),
        limits(request_limits(model_in)),
        steps(model_in, options_in) {
    seed_base = steps.random_seed();
    thread = std::thread([this] { run(); });
  }

  void run();
  bool wait_for_mail();  // false: the engine ends
  void publish_and_deliver();
  void fail(const std::string& message);

  ForwardModel& model;
  const EngineOptions options;
  const RequestLimits limits;
  uint64_t seed_base = 0;
  std::atomic<uint64_t> next_request_id{1};

  mutable std::mutex mutex;
  std::condition_variable has_mail;
  std::condition_variable became_idle;
  std::vector<std::unique_ptr<ActiveRequest>> submitted;  // bounded by max_queued_requests
  std::vector<uint64_t> aborted_ids;
  bool abort_all = false;
  bool reset_cache = false;
  bool stopping = false;
  bool draining = false;
  bool failed = false;
  std::string failure;
  int64_t num_queued = 0;  // accepted, not admitted yet
  int64_t num_active = 0;  // accepted, last event not delivered yet
  EngineStats published;

  // The engine thread's own.
  StepLoop steps;
  std::vector<std::unique_ptr<ActiveRequest>> incoming;
  std::vector<uint64_t> incoming_aborts;
  std::thread thread;
};

Engine::Engine(ForwardModel& model, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(model, options)) {}

Engine::~Engine() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->has_mail.notify_one();
  impl_->thread.join();
}

Result<Engine::RequestId, SubmitError> Engine::submit(GenerationRequest request) {
  using Kind = SubmitError::Kind;
  if (std::optional<SubmitError> error = find_invalid_request(request, impl_->limits))
    return *std::move(error);
  const RequestId request_id = impl_->next_request_id.fetch_add(1, std::memory_order_relaxed);
  const uint64_t seed = request.sampling.seed.value_or(impl_->seed_base + request_id);
  auto active = std::make_unique<ActiveRequest>(request_id, seed, std::move(request));
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->failed) return SubmitError{Kind::kFailed, "the engine failed: " + impl_->failure};
    if (impl_->draining || impl_->stopping)
      return SubmitError{Kind::kDraining, "the engine takes no new requests: it is shutting down"};
    if (impl_->num_queued >= impl_->options.max_queued_requests) {
      return SubmitError{Kind::kQueueFull,
                         fmt::format("the queue is full ({} requests are waiting), try again later",
                                     impl_->num_queued)};
    }
    impl_->submitted.push_back(std::move(active));
    ++impl_->num_queued;
    ++impl_->num_active;
    ++impl_->published.num_waiting;
  }
  impl_->has_mail.notify_one();
  return request_id;
}

void Engine::abort(RequestId request_id) {
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->num_active == 0) return;
    impl_->aborted_ids.push_back(request_id);
  }
  impl_->has_mail.notify_one();
}

void Engine::reset_prefix_cache() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->reset_cache = true;
  }
  impl_->has_mail.notify_one();
}

bool Engine::drain(std::chrono::milliseconds timeout) {
  std::unique_lock lock(impl_->mutex);
  impl_->draining = true;
  impl_->published.draining = true;
  const auto is_idle = [this] { return impl_->num_active == 0; };
  if (impl_->became_idle.wait_for(lock, timeout, is_idle)) return true;
  impl_->abort_all = true;
  impl_->has_mail.notify_one();
  impl_->became_idle.wait(lock, is_idle);
  return false;
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->published;
}

const ForwardModel& Engine::model() const { return impl_->model; }
const EngineOptions& Engine::options() const { return impl_->options; }

int32_t Engine::max_context_tokens() const { return impl_->limits.max_context_tokens; }

void Engine::Impl::run() {
  try {
    while (wait_for_mail()) {
      for (std::unique_ptr<ActiveRequest>& request : incoming) steps.add(std::move(request));
      incoming.clear();
      for (const uint64_t request_id : incoming_aborts) steps.abort(request_id);
      // Who was aborted hears of it before the next step, which may take long.
      if (!steps.finished().empty()) publish_and_deliver();
      if (steps.empty()) continue;
      steps.step();
      publish_and_deliver();
    }
    steps.abort_all();
    publish_and_deliver();
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("an unknown error");
  }
}

// Sleeps while there is nothing to do; takes the mail.
bool Engine::Impl::wait_for_mail() {
  std::unique_lock lock(mutex);
  has_mail.wait(lock, [this] {
    return stopping || abort_all || reset_cache || !submitted.empty() || !aborted_ids.empty() ||
           !steps.empty();
  });
  std::swap(incoming, submitted);
  incoming_aborts.clear();
  std::swap(incoming_aborts, aborted_ids);
  const bool aborts_all = std::exchange(abort_all, false);
  const bool resets_cache = std::exchange(reset_cache, false);
  const bool continues = !stopping;
  lock.unlock();
  if (resets_cache) steps.reset_prefix_cache();
  if (aborts_all || !continues) {
    for (std::unique_ptr<ActiveRequest>& request : incoming) steps.add(std::move(request));
    incoming.clear();
    steps.abort_all();
  }
  return continues;
}

// First what stats() says, then the last events: who has seen a request finish, finds it counted.
void Engine::Impl::publish_and_deliver() {
  const int64_t num_done = static_cast<int64_t>(steps.finished().size());
  {
    const std::lock_guard lock(mutex);
    const bool was_draining = published.draining;
    num_queued -= steps.take_num_left_queue();
    published = steps.stats();
    published.num_waiting += static_cast<int64_t>(submitted.size());
    published.draining = was_draining;
    published.failed = failed;
  }
  if (num_done == 0) return;
  steps.deliver_finished();
  const std::lock_guard lock(mutex);
  num_active -= num_done;
  if (num_active == 0) became_idle.notify_all();
}

// The device's state is lost with the step: everybody is told, nobody is served any more.
void Engine::Impl::fail(const std::string& message) {
  {
    const std::lock_guard lock(mutex);
    failed = true;
    failure = message;
    std::move(submitted.begin(), submitted.end(), std::back_inserter(incoming));
    submitted.clear();
  }
  for (std::unique_ptr<ActiveRequest>& request : incoming) {
    if (request != nullptr) steps.add(std::move(request));
  }
  incoming.clear();
  steps.fail_all("the engine failed: " + message);
  publish_and_deliver();
}

}  // namespace tandem
