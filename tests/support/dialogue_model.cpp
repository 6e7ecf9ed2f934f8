#include "tests/support/dialogue_model.h"

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "runtime/base/errors.h"

namespace tandem::tests {
namespace {

constexpr float kScriptLogit = 40.0f;
constexpr float kFallbackLogit = 10.0f;
constexpr float kOtherLogit = -20.0f;

// The finaliser of SplitMix64.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

DialogueModel::DialogueModel(const Tokenizer& tokenizer,
                             std::vector<ScriptedAnswer> answers,
                             const DialogueLimits& limits)
    : tokenizer_(tokenizer),
      answers_(std::move(answers)),
      limits_(limits),
      fallback_id_(tokenizer.encode("x", Tokenizer::Specials::kAsText).at(0)),
      cells_(static_cast<size_t>(limits.num_kv_pages) * kPageSizeTokens) {
  for (const ScriptedAnswer& answer : answers_) {
    if (answer.repeat && answer.say_ids.empty()) throw std::logic_error("nothing to repeat");
  }
}

void DialogueModel::hold() {
  const std::lock_guard lock(mutex_);
  held_ = true;
}

void DialogueModel::release() {
  const std::lock_guard lock(mutex_);
  held_ = false;
  released_.notify_all();
}

void DialogueModel::forward(const Batch& batch, MatrixView<float> logits) {
  wait_for_step();
  for (const BatchItem& item : batch.items) append_tokens(batch, item);
  int64_t row_idx = 0;
  for (const BatchItem& item : batch.items) {
    const int32_t token_end = item.token_begin + item.num_tokens;
    for (; row_idx < logits.rows && batch.logit_token_idx[static_cast<size_t>(row_idx)] < token_end;
         ++row_idx) {
      const int32_t token_idx = batch.logit_token_idx[static_cast<size_t>(row_idx)];
      const int32_t position = item.context_size_tokens + token_idx - item.token_begin;
      if (token_idx + 1 == token_end) begin_answer(item, position);
      write_logits(cell_at(item, position), position, logits.row(row_idx));
    }
  }
  pause(batch);
}

void DialogueModel::release_memory(const ModelMemory& what) {
  const std::lock_guard lock(mutex_);
  given_back_ = given_back_ | what;
  if (what.kv_cache) std::fill(cells_.begin(), cells_.end(), Cell());
}

void DialogueModel::restore_memory(const ModelMemory& what, const ProgressFn& progress) {
  progress({.stage = "weights", .done_bytes = 1, .total_bytes = 4});
  std::unique_lock lock(mutex_);
  released_.wait(lock, [this] { return !held_; });
  if (restore_fails_.exchange(false)) throw LoadError("GPU 0 is full\nmemory map");
  given_back_ = given_back_ - what;
}

ModelMemory DialogueModel::released() const {
  const std::lock_guard lock(mutex_);
  return given_back_;
}

void DialogueModel::wait_for_step() {
  {
    std::unique_lock lock(mutex_);
    released_.wait(lock, [this] { return !held_; });
    if (given_back_.any()) throw std::logic_error("a step without the model's memory");
  }
  if (fails_.exchange(false)) throw std::runtime_error("the device fell off the bus");
}

// A step is free when every sequence of it is inside a burst.
void DialogueModel::pause(const Batch& batch) {
  const int64_t step_time_us = step_time_us_;
  if (step_time_us <= 0) return;
  for (const BatchItem& item : batch.items) {
    const Cell& cell = cell_at(item, item.context_size_tokens + item.num_tokens - 1);
    const int32_t burst =
        cell.answer_idx < 0 ? 1 : answers_[static_cast<size_t>(cell.answer_idx)].tokens_per_step;
    if (item.num_tokens == 1 && cell.num_said % burst != 0) continue;
    std::this_thread::sleep_for(std::chrono::microseconds(step_time_us));
    return;
  }
}

void DialogueModel::append_tokens(const Batch& batch, const BatchItem& item) {
  Cell cell = item.context_size_tokens == 0 ? Cell() : cell_at(item, item.context_size_tokens - 1);
  for (int32_t idx = 0; idx < item.num_tokens; ++idx) {
    cell = following(cell, batch.token_ids[static_cast<size_t>(item.token_begin + idx)]);
    cell_at(item, item.context_size_tokens + idx) = cell;
  }
}

DialogueModel::Cell DialogueModel::following(const Cell& before, int32_t token_id) const {
  const SpecialTokens& specials = tokenizer_.specials();
  Cell cell = before;
  cell.token_id = token_id;
  if (token_id == specials.im_assistant) {
    cell.place = Cell::Place::kAssistantName;
  } else if (token_id == specials.im_middle && before.place == Cell::Place::kAssistantName) {
    cell = {.token_id = token_id, .answer_idx = -1, .num_said = 0, .place = Cell::Place::kAnswer};
  } else if (token_id == specials.im_user || token_id == specials.im_system) {
    cell.place = Cell::Place::kPrompt;
    cell.answer_idx = -1;
  } else {
    ++cell.num_said;
    if (cell.answer_idx < 0) return cell;
    const std::vector<int32_t>& ids = answers_[static_cast<size_t>(cell.answer_idx)].say_ids;
    const auto said = static_cast<size_t>(before.num_said);
    if (!tokenizer_.is_special(token_id) || said >= ids.size() || ids[said] == token_id)
      return cell;
    const auto found = std::find(ids.begin() + before.num_said, ids.end(), token_id);
    if (found != ids.end()) cell.num_said = static_cast<int32_t>(found - ids.begin()) + 1;
  }
  return cell;
}

// Where an answer has not been chosen: its prompt ends here. What the prompt has of the answer
// already (a sequence that was preempted, an opened <think>) counts as said.
void DialogueModel::begin_answer(const BatchItem& item, int32_t position) {
  Cell& cell = cell_at(item, position);
  const bool plain = cell.place == Cell::Place::kPrompt;
  if (cell.answer_idx >= 0 && !(plain && item.num_tokens > 1)) return;
  const int32_t num_behind_header = plain ? 0 : cell.num_said;
  cell.answer_idx = choose_answer(item, position - num_behind_header);
  cell.num_said = 0;
  if (cell.answer_idx < 0) return;
  const std::vector<int32_t>& ids = answers_[static_cast<size_t>(cell.answer_idx)].say_ids;
  if (num_behind_header > static_cast<int32_t>(ids.size())) return;
  for (int32_t idx = 0; idx < num_behind_header; ++idx) {
    if (cell_at(item, position - num_behind_header + 1 + idx).token_id != ids[idx]) return;
  }
  cell.num_said = num_behind_header;
}

// `position` is that of the header's <|im_middle|>, or of the last token of a prompt without one.
int32_t DialogueModel::choose_answer(const BatchItem& item, int32_t position) const {
  const SpecialTokens& specials = tokenizer_.specials();
  int32_t end = position + 1;
  if (cell_at(item, position).place == Cell::Place::kAnswer) {
    while (end > 0 && cell_at(item, end - 1).token_id != specials.im_assistant) --end;
    end = std::max(end - 2, 0);  // before the <|im_end|> of the last message
  }
  int32_t begin = end;
  while (begin > 0 && cell_at(item, begin - 1).token_id != specials.im_end) --begin;
  std::string last_message;
  for (int32_t idx = begin; idx < end; ++idx) {
    const int32_t token_id = cell_at(item, idx).token_id;
    if (!tokenizer_.is_special(token_id)) last_message += tokenizer_.token_bytes(token_id);
  }
  for (size_t answer_idx = 0; answer_idx < answers_.size(); ++answer_idx) {
    if (last_message.find(answers_[answer_idx].when) != std::string::npos)
      return static_cast<int32_t>(answer_idx);
  }
  return -1;
}

void DialogueModel::write_logits(const Cell& cell,
                                 int32_t position,
                                 std::span<float> logits) const {
  const ScriptedAnswer* answer =
      cell.answer_idx < 0 ? nullptr : &answers_[static_cast<size_t>(cell.answer_idx)];
  if (answer != nullptr && answer->random_seed) {
    // 24 bits in [-4, 4), by the seed, the place and the last token.
    const uint64_t state = mix(*answer->random_seed + mix(static_cast<uint64_t>(position)) +
                               static_cast<uint64_t>(cell.token_id));
    for (size_t token_id = 0; token_id < logits.size(); ++token_id) {
      logits[token_id] = static_cast<float>(mix(state + token_id) >> 40) * 0x1p-21f - 4.0f;
    }
    return;
  }
  std::fill(logits.begin(), logits.end(), kOtherLogit);
  logits[static_cast<size_t>(fallback_id_)] = kFallbackLogit;
  int32_t next_id = tokenizer_.specials().im_end;
  if (answer != nullptr) {
    const auto num_said = static_cast<size_t>(cell.num_said);
    const std::vector<int32_t>& ids = answer->say_ids;
    if (answer->repeat) {
      next_id = ids[num_said % ids.size()];
    } else if (num_said < ids.size()) {
      next_id = ids[num_said];
    }
  }
  logits[static_cast<size_t>(next_id)] = kScriptLogit;
}

DialogueModel::Cell& DialogueModel::cell_at(const BatchItem& item, int32_t position) {
  const int64_t page_id = item.page_ids[static_cast<size_t>(position / kPageSizeTokens)];
  return cells_[static_cast<size_t>(page_id * kPageSizeTokens + position % kPageSizeTokens)];
}

const DialogueModel::Cell& DialogueModel::cell_at(const BatchItem& item, int32_t position) const {
  const int64_t page_id = item.page_ids[static_cast<size_t>(position / kPageSizeTokens)];
  return cells_[static_cast<size_t>(page_id * kPageSizeTokens + position % kPageSizeTokens)];
}

}  // namespace tandem::tests
