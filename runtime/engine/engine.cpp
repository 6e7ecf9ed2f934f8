#include "runtime/engine/engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <iterator>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/random_seed.h"
#include "runtime/engine/request_check.h"
#include "runtime/engine/step_loop.h"

namespace tandem {
namespace {

constexpr auto kPagesPatience = std::chrono::milliseconds(100);
constexpr const char* kShuttingDown = "the server is shutting down";

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
        steps(model_in, options_in, [this] { note_pages(); }) {
    seed_base = random_seed();
    published = steps.stats();
    thread = std::thread([this] { run(); });
  }

  void run();
  void note_pages();
  void take_in_pages();
  bool wait_for_mail();  // false: the engine ends
  void wait_until_there_is_work(std::unique_lock<std::mutex>& lock);
  void publish_and_deliver();
  void fail(const std::string& message);
  void fall_asleep();  // as sleep_now says
  void wake();         // as wake_now says
  void fail_unkept(const std::string& message);
  void add_incoming();
  void add_first_incoming(size_t num_first);
  void end_sleepers(const std::string& message);

  // With the lock held.
  [[nodiscard]] bool is_idle() const { return num_active == 0 && num_open_answers == 0; }
  [[nodiscard]] std::optional<SubmitError> refusal_asleep(bool has_begun) const;
  [[nodiscard]] std::optional<SleepOutcome> has_ended() const;
  Result<RequestId, SubmitError> submit(GenerationRequest request, bool has_begun);

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
  std::vector<size_t> resets;  // of the prefix cache, each behind so many of `submitted`
  bool pages_came = false;     // from the disk or to it
  bool stopping = false;
  bool draining = false;
  bool failed = false;
  std::string failure;
  int64_t num_queued = 0;  // accepted, not admitted yet
  int64_t num_active = 0;  // accepted, last event not delivered yet
  int64_t num_open_answers = 0;
  SleepControl sleep;
  EngineStats published;
  std::atomic<double> waking_progress{0.0};

  // The engine thread's own.
  StepLoop steps;
  std::vector<std::unique_ptr<ActiveRequest>> incoming;
  std::vector<uint64_t> incoming_aborts;
  bool has_new_pages = false;
  std::optional<SleepControl::Order> sleep_now, wake_now;  // one of them at most
  bool asleep = false;
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
  return impl_->submit(std::move(request), false);
}

// What keeps a request out though it asks for nothing wrong, before anything else of it is done.
Result<Engine::RequestId, SubmitError> Engine::Impl::submit(GenerationRequest request,
                                                            bool has_begun) {
  using Kind = SubmitError::Kind;
  if (std::optional<SubmitError> error = find_invalid_request(request, limits))
    return *std::move(error);
  const RequestId request_id = next_request_id.fetch_add(1, std::memory_order_relaxed);
  const uint64_t seed = request.sampling.seed.value_or(seed_base + request_id);
  auto active = std::make_unique<ActiveRequest>(request_id, seed, std::move(request));
  std::vector<SleepControl::Call> called_off;
  bool wakes = false;
  {
    const std::lock_guard lock(mutex);
    if (failed) return SubmitError{Kind::kFailed, "the engine failed: " + failure};
    if (draining || stopping)
      return SubmitError{Kind::kDraining, "the engine takes no new requests: it is shutting down"};
    if (num_queued >= options.max_queued_requests) {
      return SubmitError{
          Kind::kQueueFull,
          fmt::format("the queue is full ({} requests are waiting), try again later", num_queued)};
    }
    if (std::optional<SubmitError> asleep_error = refusal_asleep(has_begun)) {
      if (!options.wake_on_request) return *std::move(asleep_error);
      wakes = sleep.state() == SleepState::kAsleep;
      // A waking under way may be of a part alone.
      if (!sleep.ends_awake()) called_off = sleep.order_waking(kAllModelMemory, nullptr);
    }
    submitted.push_back(std::move(active));
    ++num_queued;
    ++num_active;
    ++published.num_waiting;
  }
  for (const SleepControl::Call& call : called_off) call.done(call.outcome);
  has_mail.notify_one();
  if (wakes) spdlog::info("a request wakes the model");
  return request_id;
}

std::optional<SubmitError> Engine::Impl::refusal_asleep(bool has_begun) const {
  const SleepState state = sleep.state();
  const bool goes_on = has_begun && (sleep.waits() || sleep.keeps_requests());
  if (state == SleepState::kAwake || goes_on) return std::nullopt;
  const std::string_view what = state == SleepState::kFallingAsleep ? "is going to sleep"
                                : state == SleepState::kWaking      ? "is waking up"
                                                                    : "is asleep";
  return SubmitError{SubmitError::Kind::kSleeping, fmt::format("the model {}", what)};
}

Engine::Answer::Answer(Engine& engine) : engine_(engine) {
  const std::lock_guard lock(engine_.impl_->mutex);
  ++engine_.impl_->num_open_answers;
  has_begun_ = engine_.impl_->sleep.state() == SleepState::kAwake;
}

Engine::Answer::~Answer() {
  bool is_waited_for = false;
  {
    const std::lock_guard lock(engine_.impl_->mutex);
    --engine_.impl_->num_open_answers;
    is_waited_for = engine_.impl_->sleep.waits();
  }
  if (is_waited_for) engine_.impl_->has_mail.notify_one();
}

Result<Engine::RequestId, SubmitError> Engine::Answer::submit(GenerationRequest request) {
  auto submitted = engine_.impl_->submit(std::move(request), has_begun_);
  has_begun_ |= submitted.ok();
  return submitted;
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
    std::vector<size_t>& resets = impl_->resets;
    const size_t num_before = impl_->submitted.size();
    if (resets.empty() || resets.back() != num_before) resets.push_back(num_before);
  }
  impl_->has_mail.notify_one();
}

void Engine::sleep(const ModelMemory& memory, SleepMode mode, SleepDone done) {
  TANDEM_CHECK(memory.any(), "a sleep without memory to give back");
  std::optional<SleepOutcome> ended;
  {
    const std::lock_guard lock(impl_->mutex);
    ended = impl_->has_ended();
    if (!ended) impl_->sleep.order_sleep(memory, mode, std::move(done));
  }
  if (ended && done) done(*ended);
  impl_->has_mail.notify_one();
}

void Engine::wake_up(const ModelMemory& memory, SleepDone done) {
  std::vector<SleepControl::Call> calls;
  {
    const std::lock_guard lock(impl_->mutex);
    if (std::optional<SleepOutcome> ended = impl_->has_ended()) {
      if (done) calls.push_back({std::move(done), *std::move(ended)});
    } else {
      calls = impl_->sleep.order_waking(memory, std::move(done));
    }
  }
  for (const SleepControl::Call& call : calls) call.done(call.outcome);
  impl_->has_mail.notify_one();
}

std::optional<SubmitError> Engine::sleep_refusal() const {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->options.wake_on_request) return std::nullopt;
  return impl_->refusal_asleep(false);
}

std::optional<SleepOutcome> Engine::Impl::has_ended() const {
  using Kind = SleepOutcome::Kind;
  if (failed) return SleepOutcome{Kind::kEnded, "the engine failed: " + failure};
  if (stopping) return SleepOutcome{Kind::kEnded, "the engine is shutting down"};
  return std::nullopt;
}

bool Engine::drain(std::chrono::milliseconds timeout) {
  std::unique_lock lock(impl_->mutex);
  impl_->draining = true;
  const auto is_idle = [this] { return impl_->num_active == 0; };
  if (impl_->became_idle.wait_for(lock, timeout, is_idle)) return true;
  impl_->abort_all = true;
  impl_->has_mail.notify_one();
  impl_->became_idle.wait(lock, is_idle);
  return false;
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  EngineStats stats = impl_->published;
  stats.failed = impl_->failed;
  stats.draining = impl_->draining;
  stats.sleep_state = impl_->sleep.state();
  stats.released = impl_->sleep.released();
  stats.waking_progress = impl_->waking_progress;
  return stats;
}

const ForwardModel& Engine::model() const { return impl_->model; }
const EngineOptions& Engine::options() const { return impl_->options; }
int32_t Engine::max_prefill_tokens() const { return impl_->steps.limits().prefill_alone_tokens; }

int32_t Engine::max_context_tokens() const { return impl_->limits.max_context_tokens; }

void Engine::Impl::run() {
  try {
    while (wait_for_mail()) {
      add_incoming();
      for (const uint64_t request_id : incoming_aborts) steps.abort(request_id);
      // Who was aborted hears of it before the next step, which may take long.
      if (!steps.finished().empty()) publish_and_deliver();
      if (wake_now) wake();
      if (sleep_now) fall_asleep();
      if (steps.empty() || asleep) {
        take_in_pages();
        continue;
      }
      steps.step();
      publish_and_deliver();
    }
    steps.abort_all(kShuttingDown);
    publish_and_deliver();
    end_sleepers(kShuttingDown);
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("an unknown error");
  }
}

void Engine::Impl::add_incoming() {
  add_first_incoming(incoming.size());
  incoming.clear();
}

// But those that were added before.
void Engine::Impl::add_first_incoming(size_t num_first) {
  for (size_t idx = 0; idx < num_first; ++idx) {
    if (incoming[idx] != nullptr) steps.add(std::move(incoming[idx]));
  }
}

// By the threads that read and write pages.
void Engine::Impl::note_pages() {
  {
    const std::lock_guard lock(mutex);
    pages_came = true;
  }
  has_mail.notify_one();
}

// Where no step does it: nobody else would tell what became of the last pages.
void Engine::Impl::take_in_pages() {
  if (!has_new_pages) return;
  steps.take_in_pages();
  publish_and_deliver();
}

void Engine::Impl::wait_until_there_is_work(std::unique_lock<std::mutex>& lock) {
  const bool has_steps = !steps.empty() && !asleep;
  const bool waits_for_pages = has_steps && steps.waits_for_pages();
  const auto has_work = [&] {
    return stopping || pages_came || abort_all || !resets.empty() || !submitted.empty() ||
           !aborted_ids.empty() || sleep.has_waking() || sleep.has_sleep(is_idle()) ||
           (has_steps && !waits_for_pages);
  };
  if (waits_for_pages) {
    // Now and then without news as well: a disk may be given up.
    has_mail.wait_for(lock, kPagesPatience, has_work);
    return;
  }
  if (asleep || options.sleep_after.count() <= 0) return has_mail.wait(lock, has_work);
  while (!has_mail.wait_for(lock, options.sleep_after, has_work)) {
    // Nobody has asked for so long; somebody may be about to, for an answer of several requests.
    if (!is_idle()) continue;
    sleep.order_sleep(kDeviceModelMemory, SleepMode::kWait, [this](const SleepOutcome& outcome) {
      if (outcome.kind != SleepOutcome::Kind::kDone) return;
      const std::chrono::duration<double> idle = options.sleep_after;
      spdlog::info(
          "no request for {:g} s: the model sleeps, the memory of its devices is given back",
          idle.count());
    });
  }
}

// Waits while there is nothing to do; takes the mail.
bool Engine::Impl::wait_for_mail() {
  std::unique_lock lock(mutex);
  wait_until_there_is_work(lock);
  has_new_pages = std::exchange(pages_came, false);
  std::swap(incoming, submitted);
  incoming_aborts.clear();
  std::swap(incoming_aborts, aborted_ids);
  const bool aborts_all = std::exchange(abort_all, false);
  const std::vector<size_t> incoming_resets = std::exchange(resets, {});
  const bool continues = !stopping;
  // With the requests taken above: whoever comes from here on is refused, or is told of the waking.
  if (continues && sleep.has_waking()) {
    wake_now = sleep.begin_waking();
  } else if (continues && sleep.has_sleep(is_idle())) {
    sleep_now = sleep.begin_sleep();
  }
  lock.unlock();
  for (const size_t num_before : incoming_resets) {
    add_first_incoming(num_before);  // what they compute is not found by those behind them
    steps.reset_prefix_cache();
  }
  if (aborts_all || !continues) {
    add_incoming();
    steps.abort_all(kShuttingDown);
  }
  return continues;
}

// First what stats() says, then the last events: who has seen a request finish, finds it counted.
void Engine::Impl::publish_and_deliver() {
  const int64_t num_done = static_cast<int64_t>(steps.finished().size());
  {
    const std::lock_guard lock(mutex);
    num_queued -= steps.take_num_left_queue();
    published = steps.stats();
    published.num_waiting += static_cast<int64_t>(submitted.size());
  }
  if (num_done == 0) return;
  steps.deliver_finished();
  const std::lock_guard lock(mutex);
  num_active -= num_done;
  if (num_active == 0) became_idle.notify_all();
}

// Requests that were taken before have their ends before the memory goes.
void Engine::Impl::fall_asleep() {
  const ModelMemory memory = sleep_now->memory;
  if (sleep_now->mode == SleepMode::kAbort) steps.abort_all("");
  steps.keep_all();
  if (memory.kv_cache) steps.leave_kv_cache();
  publish_and_deliver();
  model.release_memory(memory);
  asleep = true;
  {
    const std::lock_guard lock(mutex);
    sleep.end_sleep(memory);
  }
  const SleepControl::Order order = *std::exchange(sleep_now, std::nullopt);
  for (const SleepDone& done : order.done) done({});
}

void Engine::Impl::wake() {
  SleepControl::Order order = *std::exchange(wake_now, std::nullopt);
  SleepOutcome outcome;
  waking_progress = 0.0;
  const auto begin = std::chrono::steady_clock::now();
  try {
    model.restore_memory(order.memory, [this](const Progress& progress) {
      if (progress.total_bytes > 0) {
        waking_progress =
            static_cast<double>(progress.done_bytes) / static_cast<double>(progress.total_bytes);
      }
      const std::lock_guard lock(mutex);
      if (stopping) throw std::runtime_error(kShuttingDown);
    });
  } catch (const std::exception& error) {
    outcome = {SleepOutcome::Kind::kNotWoken, error.what()};
    order.memory = {};
  }
  bool is_woken_next = false;  // by an order that has come meanwhile
  {
    const std::lock_guard lock(mutex);
    sleep.end_waking(order.memory);
    asleep = sleep.released().any();
    is_woken_next = sleep.ends_awake();
  }
  if (!asleep) {
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    spdlog::info("the model is awake, after {:.1f} s", taken.count());
  }
  if (outcome.kind != SleepOutcome::Kind::kDone && options.wake_on_request && !is_woken_next) {
    fail_unkept("the model could not be woken: " + outcome.message);
  }
  for (const SleepDone& done : order.done) done(outcome);
}

// They came for the waking; those that were kept through the sleep may wait for another.
void Engine::Impl::fail_unkept(const std::string& message) {
  {
    const std::lock_guard lock(mutex);
    std::swap(incoming, submitted);
    std::fill(resets.begin(), resets.end(), 0);
  }
  add_incoming();
  steps.abort_unkept(message);
  publish_and_deliver();
}

void Engine::Impl::end_sleepers(const std::string& message) {
  std::vector<SleepDone> sleepers;
  {
    const std::lock_guard lock(mutex);
    sleepers = sleep.take_all();
  }
  if (sleep_now) {  // it failed half-way
    std::move(sleep_now->done.begin(), sleep_now->done.end(), std::back_inserter(sleepers));
    sleep_now.reset();
  }
  for (const SleepDone& done : sleepers) done({SleepOutcome::Kind::kEnded, message});
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
  add_incoming();
  steps.fail_all("the engine failed: " + message);
  publish_and_deliver();
  end_sleepers("the engine failed: " + message);
}

}  // namespace tandem
