#include "server/running_answers.h"

#include <algorithm>
#include <utility>

namespace tandem::server {

RunningAnswers::Entry::Entry(RunningAnswers& answers, std::string answer_id, std::string request_id)
    : answers_(answers), answer_id_(std::move(answer_id)), request_id_(std::move(request_id)) {
  const std::lock_guard lock(answers_.mutex_);
  place_ = answers_.entries_.insert(answers_.entries_.end(), this);
}

RunningAnswers::Entry::~Entry() {
  const std::lock_guard lock(answers_.mutex_);
  answers_.entries_.erase(place_);
}

void RunningAnswers::Entry::add(Engine& engine, Engine::RequestId id) {
  const std::lock_guard lock(answers_.mutex_);
  engine_ids_.push_back(id);
  if (aborted_) engine.abort(id);
}

bool RunningAnswers::Entry::aborted() const {
  const std::lock_guard lock(answers_.mutex_);
  return aborted_;
}

bool RunningAnswers::Entry::is_called(std::string_view name) const {
  const std::string_view id = answer_id_;
  return name == id || name == request_id_ || name == id.substr(id.find_first_of("-_") + 1);
}

template <typename Condition>
int64_t RunningAnswers::abort_where(const Condition& condition, Engine& engine) {
  const std::lock_guard lock(mutex_);
  int64_t num_aborted = 0;
  for (Entry* entry : entries_) {
    if (!condition(*entry) || std::exchange(entry->aborted_, true)) continue;
    ++num_aborted;
    for (const Engine::RequestId id : entry->engine_ids_) engine.abort(id);
  }
  return num_aborted;
}

int64_t RunningAnswers::abort(std::string_view name, Engine& engine) {
  if (name.empty()) return 0;
  return abort_where([&](const Entry& entry) { return entry.is_called(name); }, engine);
}

int64_t RunningAnswers::abort_all(Engine& engine) {
  return abort_where([](const Entry&) { return true; }, engine);
}

}  // namespace tandem::server
