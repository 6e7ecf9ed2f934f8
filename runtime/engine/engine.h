// One thread owns all sequences: takes requests from a bounded queue, runs steps (prefill chunks
// beside decodes), emits tokens.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/repetition.h"
#include "runtime/engine/sleep_control.h"
#include "runtime/engine/token_sink.h"
#include "runtime/model/forward_model.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/sampling/token_constraint.h"

namespace tandem {

class PageFolder;

struct GenerationRequest {
  std::vector<int32_t> prompt_ids;  // not empty
  SamplingParams sampling;
  int32_t max_new_tokens = 0;  // >= 1; prompt + new must fit max_context_tokens (checked by submit)
  int32_t min_new_tokens = 0;  // stop tokens are not chosen before
  std::vector<int32_t> stop_token_ids;  // end the sequence, are not emitted
  bool ignore_eos = false;              // stop_token_ids do not end it
  int32_t num_logprobs = -1;            // -1: none; 0: of the chosen token; k: and the k best
  // What may be said, of this request alone (it is stateful); null: anything.
  std::shared_ptr<TokenConstraint> constraint;
  bool prompt_logprobs = false;  // the same for the prompt's tokens, from the second on
  int32_t priority = 0;          // lower ones go first
  std::string cache_salt;        // KV pages are shared with requests of the same salt alone
  RepetitionLimit repetition;    // of generated tokens
  std::shared_ptr<TokenSink> sink;
};

struct EngineOptions {
  int32_t max_sequences = 64;          // running at once
  int32_t max_queued_requests = 256;   // submit beyond it fails with kQueueFull
  int32_t prefill_chunk_tokens = 512;  // prompt tokens a step takes beside the running decodes
  int32_t prefill_alone_tokens = 0;    // where nothing decodes, if more; what comes then waits
  bool prefix_cache = true;
  // Where KV pages outlive the process; null: nowhere. Beside it, copies of pages that have left
  // the model's memory are kept in host memory, as much as the model planned for them.
  std::shared_ptr<PageFolder> kv_folder = nullptr;
  std::chrono::milliseconds kv_folder_patience{10'000};  // with a disk that does not answer
  bool wake_on_request = false;  // submit wakes a sleeping engine in place of refusing
  // Idle for so long, the engine sleeps by itself: the devices' memory goes. 0: never.
  std::chrono::milliseconds sleep_after{0};
};

struct SubmitError {
  enum class Kind { kQueueFull, kContextTooLong, kInvalid, kDraining, kSleeping, kFailed };
  Kind kind = Kind::kInvalid;
  std::string message;
};

struct EngineStats {
  int64_t num_running = 0, num_waiting = 0;
  int64_t kv_pages_used = 0, kv_pages_total = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;  // since start
  int64_t num_steps = 0, num_finished = 0, num_aborted = 0;
  // Copies of KV pages beside the model's memory.
  int64_t restored_tokens = 0;  // of cached_tokens: came back from such copies
  int64_t kv_host_pages_used = 0, kv_host_pages_total = 0;
  int64_t kv_disk_size_bytes = 0, kv_disk_limit_bytes = 0;  // limit 0: no folder
  int64_t kv_disk_pages_read = 0, kv_disk_pages_written = 0;
  int64_t kv_disk_failures = 0;  // pages that could not be read or written, or were damaged
  bool failed = false, draining = false;
  SleepState sleep_state = SleepState::kAwake;
  ModelMemory released;          // while asleep
  double waking_progress = 0.0;  // 0..1, while waking
};

class Engine {
 public:
  using RequestId = uint64_t;

  // `model` outlives the engine. Starts the thread.
  Engine(ForwardModel& model, const EngineOptions& options);
  ~Engine();  // aborts what runs, joins
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Thread-safe, never blocks.
  Result<RequestId, SubmitError> submit(GenerationRequest request);
  // An answer that may take several requests, one after the other. A sleep that waits for requests
  // waits for the last of them.
  class Answer {
   public:
    explicit Answer(Engine& engine);
    ~Answer();
    Answer(const Answer&) = delete;
    Answer& operator=(const Answer&) = delete;
    Result<RequestId, SubmitError> submit(GenerationRequest request);

   private:
    Engine& engine_;
    bool has_begun_;  // while the engine was awake
  };
  // Takes effect at the next step; the sink gets kFinished with kAborted. Unknown ids are ignored.
  void abort(RequestId request_id);
  // No request submitted from here on finds KV pages of an earlier one. Thread-safe, never blocks.
  void reset_prefix_cache();

  // Takes no requests from here on, does with the others what `mode` says and has the model give
  // `memory` back; with the KV cache goes the prefix cache. Asleep, it may be told to give back
  // more. Thread-safe, neither blocks; `done` may be null.
  void sleep(const ModelMemory& memory, SleepMode mode, SleepDone done);
  // Takes memory again; requests are taken again when none is missing. A sleep that has not begun
  // is called off.
  void wake_up(const ModelMemory& memory, SleepDone done);
  // What submit says to any request because the engine sleeps.
  [[nodiscard]] std::optional<SubmitError> sleep_refusal() const;

  // Refuses new requests and waits until the running ones have finished; after `timeout` the rest
  // is aborted. True when nothing had to be aborted.
  bool drain(std::chrono::milliseconds timeout);

  [[nodiscard]] EngineStats stats() const;
  [[nodiscard]] const ForwardModel& model() const;
  [[nodiscard]] const EngineOptions& options() const;
  // What a step takes of prompts at most.
  [[nodiscard]] int32_t max_prefill_tokens() const;
  // What prompt + max_new_tokens may come to: the model's limit, or less where the KV pages hold
  // less.
  [[nodiscard]] int32_t max_context_tokens() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
