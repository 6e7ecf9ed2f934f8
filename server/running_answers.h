// Answers being made, by the names under which a client may ask to end them.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/engine.h"

namespace tandem::server {

// Thread-safe.
class RunningAnswers {
 public:
  // One answer, while it lives.
  class Entry {
   public:
    // `answer_id` begins with the dialect's prefix: "chatcmpl-"; `request_id` is X-Request-Id.
    Entry(RunningAnswers& answers, std::string answer_id, std::string request_id);
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

    // An engine request of this answer; aborted at once where the answer has been.
    void add(Engine& engine, Engine::RequestId id);
    [[nodiscard]] bool aborted() const;

   private:
    friend class RunningAnswers;
    [[nodiscard]] bool is_called(std::string_view name) const;

    RunningAnswers& answers_;
    const std::string answer_id_, request_id_;
    std::vector<Engine::RequestId> engine_ids_;
    bool aborted_ = false;
    std::list<Entry*>::iterator place_;
  };

  // Ends the answers of this name: an answer's id, with or without its prefix, or an X-Request-Id.
  // Returns how many.
  int64_t abort(std::string_view name, Engine& engine);
  int64_t abort_all(Engine& engine);

 private:
  template <typename Condition>
  int64_t abort_where(const Condition& condition, Engine& engine);

  mutable std::mutex mutex_;
  std::list<Entry*> entries_;
};

}  // namespace tandem::server
