#include "tests/support/fake_model.h"

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "runtime/base/errors.h"
#include "runtime/sampling/sampler.h"

namespace tandem::tests {
namespace {

// The finaliser of SplitMix64.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

constexpr uint64_t kEmptyHistoryHash = 0x7a6e;

uint64_t extend_history_hash(uint64_t hash, int32_t token_id) {
  return mix(hash ^ static_cast<uint32_t>(token_id));
}

}  // namespace

FakeModel::FakeModel(const FakeModelOptions& options)
    : options_(options), cells_(static_cast<size_t>(options.num_kv_pages) * kPageSizeTokens) {}

void FakeModel::forward(const Batch& batch, MatrixView<float> logits) {
  compute(batch, logits, false);
}

void FakeModel::forward_and_choose(const Batch& batch,
                                   std::span<const TokenChoice> choices,
                                   std::span<int32_t> token_ids) {
  if (!options_.chooses_tokens) violate("asked to choose tokens");
  if (choices.size() != batch.logit_token_idx.size() || token_ids.size() != choices.size())
    violate("choices have a wrong shape");
  std::vector<float> values(choices.size() * static_cast<size_t>(options_.vocab_size));
  const MatrixView<float> logits(values.data(), static_cast<int64_t>(choices.size()),
                                 options_.vocab_size);
  compute(batch, logits, true);
  SamplerScratch scratch;
  for (size_t row = 0; row < choices.size(); ++row) {
    SamplingParams params;
    params.temperature = choices[row].temperature;
    params.top_k = choices[row].top_k;
    params.top_p = choices[row].top_p;
    params.min_p = choices[row].min_p;
    Sampler sampler(params, choices[row].seed, {}, choices[row].draw_idx);
    const auto token = sampler.choose({.logits = logits.row(static_cast<int64_t>(row))}, scratch);
    token_ids[row] = token ? token->token_id : -1;
  }
}

void FakeModel::compute(const Batch& batch, MatrixView<float> logits, bool is_chosen) {
  enter_step();
  if (released().any()) violate("a step without the model's memory");
  check_batch(batch, logits);
  for (const BatchItem& item : batch.items) append_tokens(batch, item);
  std::vector<int32_t> history;
  int64_t row_idx = 0;
  for (const BatchItem& item : batch.items) {
    for (int32_t token_idx = 0; token_idx < item.num_tokens; ++token_idx) {
      const int32_t batch_token_idx = item.token_begin + token_idx;
      if (!std::binary_search(batch.logit_token_idx.begin(), batch.logit_token_idx.end(),
                              batch_token_idx))
        continue;
      read_history(item, item.context_size_tokens + token_idx + 1, history);
      logits_of(history, logits.row(row_idx++));
    }
  }
  std::vector<int32_t> whole;  // contexts are checked also where nobody asks for logits
  for (const BatchItem& item : batch.items)
    read_history(item, item.context_size_tokens + item.num_tokens, whole);
  const std::lock_guard lock(mutex_);
  traces_.push_back({.num_tokens = static_cast<int32_t>(batch.token_ids.size()),
                     .num_items = static_cast<int32_t>(batch.items.size()),
                     .num_logit_rows = static_cast<int32_t>(batch.logit_token_idx.size()),
                     .is_chosen = is_chosen});
}

void FakeModel::enter_step() {
  int64_t step_idx = 0;
  {
    std::unique_lock lock(mutex_);
    step_idx = static_cast<int64_t>(traces_.size());
    held_step_ = step_idx;
    changed_.notify_all();
    // Not for ever, so that a test that fails meanwhile can end.
    changed_.wait_for(lock, std::chrono::seconds(120), [&] { return step_idx < hold_from_step_; });
    held_step_ = -1;
  }
  if (options_.step_delay.count() > 0) std::this_thread::sleep_for(options_.step_delay);
  if (step_idx == options_.fail_at_step) throw std::runtime_error("the fake device failed");
}

void FakeModel::check_batch(const Batch& batch, const MatrixView<float>& logits) {
  if (static_cast<int64_t>(batch.token_ids.size()) > options_.max_batch_tokens)
    violate("too many tokens");
  if (static_cast<int64_t>(batch.logit_token_idx.size()) > options_.max_logit_rows)
    violate("too many logit rows");
  if (logits.rows != static_cast<int64_t>(batch.logit_token_idx.size()) ||
      logits.cols != options_.vocab_size)
    violate("logits have a wrong shape");
  if (!std::is_sorted(batch.logit_token_idx.begin(), batch.logit_token_idx.end()))
    violate("logit rows are not ascending");
  if (batch.items.empty()) violate("an empty batch");
  std::vector<int32_t> page_owners(static_cast<size_t>(options_.num_kv_pages), -1);
  int32_t next_token = 0;
  for (size_t item_idx = 0; item_idx < batch.items.size(); ++item_idx) {
    const BatchItem& item = batch.items[item_idx];
    if (item.token_begin != next_token || item.num_tokens < 1) violate("items are not in order");
    next_token += item.num_tokens;
    check_item(item, page_owners, static_cast<int32_t>(item_idx));
  }
  if (next_token != static_cast<int32_t>(batch.token_ids.size())) violate("tokens of no item");
}

// Pages in range; those that this step writes belong to one item only.
void FakeModel::check_item(const BatchItem& item,
                           std::vector<int32_t>& page_owners,
                           int32_t item_idx) {
  const int32_t num_tokens = item.context_size_tokens + item.num_tokens;
  if (num_tokens > options_.max_context_tokens) violate("a sequence is too long");
  if (static_cast<int64_t>(item.page_ids.size()) * kPageSizeTokens < num_tokens)
    throw std::logic_error("too few pages");
  for (size_t page_idx = 0; page_idx < item.page_ids.size(); ++page_idx) {
    const int32_t page_id = item.page_ids[page_idx];
    if (page_id < 0 || page_id >= options_.num_kv_pages)
      throw std::logic_error("page id out of range");
    const bool is_written =
        static_cast<int32_t>(page_idx) >= item.context_size_tokens / kPageSizeTokens;
    int32_t& owner = page_owners[static_cast<size_t>(page_id)];
    constexpr int32_t kReaders = 1 << 20;  // several items may read a page
    if (owner != -1 && (is_written || owner != kReaders)) violate("a written page is shared");
    owner = is_written ? item_idx : kReaders;
  }
}

void FakeModel::append_tokens(const Batch& batch, const BatchItem& item) {
  uint64_t hash = item.context_size_tokens == 0
                      ? kEmptyHistoryHash
                      : cell_at(item, item.context_size_tokens - 1).history_hash;
  for (int32_t token_idx = 0; token_idx < item.num_tokens; ++token_idx) {
    const int32_t position = item.context_size_tokens + token_idx;
    Cell* cell = &cell_at(item, position);
    // A page begun anew holds nothing: what its former owner left must not be read.
    if (position % kPageSizeTokens == 0) std::fill(cell, cell + kPageSizeTokens, Cell{});
    const int32_t token_id = batch.token_ids[item.token_begin + token_idx];
    if (token_id < 0 || token_id >= options_.vocab_size) violate("a token outside the vocabulary");
    hash = extend_history_hash(hash, token_id);
    *cell = {.token_id = token_id, .position = position, .history_hash = hash};
  }
}

void FakeModel::read_history(const BatchItem& item,
                             int32_t num_tokens,
                             std::vector<int32_t>& history) {
  history.clear();
  uint64_t hash = kEmptyHistoryHash;
  for (int32_t position = 0; position < num_tokens; ++position) {
    const Cell& cell = cell_at(item, position);
    hash = extend_history_hash(hash, cell.token_id);
    if (cell.position != position) violate("a context token was never written at its position");
    if (cell.history_hash != hash) violate("a context token belongs to another history");
    history.push_back(cell.token_id);
  }
}

FakeModel::Cell& FakeModel::cell_at(const BatchItem& item, int32_t position) {
  const int64_t page_id = item.page_ids[static_cast<size_t>(position / kPageSizeTokens)];
  return cells_[static_cast<size_t>(page_id * kPageSizeTokens + position % kPageSizeTokens)];
}

int64_t FakeModel::kv_page_size_bytes() const {
  return int64_t{kPageSizeTokens} * static_cast<int64_t>(sizeof(Cell));
}

std::vector<std::span<std::byte>> FakeModel::cells_of(std::span<const KvPageBytes> pages) {
  if (released().kv_cache) violate("a page is copied without the KV cache");
  std::vector<std::span<std::byte>> cells;
  std::vector<bool> is_named(static_cast<size_t>(options_.num_kv_pages));
  for (const KvPageBytes& page : pages) {
    cells.emplace_back();
    if (page.page_id < 0 || page.page_id >= options_.num_kv_pages) {
      violate("a page that is copied is out of range");
    } else if (is_named[static_cast<size_t>(page.page_id)]) {
      violate("a page is copied twice in a call");
    } else if (static_cast<int64_t>(page.bytes.size()) != kv_page_size_bytes()) {
      violate("a page is copied to or from bytes of another size");
    } else {
      is_named[static_cast<size_t>(page.page_id)] = true;
      cells.back() = std::as_writable_bytes(std::span<Cell>(cells_).subspan(
          static_cast<size_t>(page.page_id) * kPageSizeTokens, kPageSizeTokens));
    }
  }
  return cells;
}

void FakeModel::read_kv_pages(std::span<const KvPageBytes> pages) {
  const std::vector<std::span<std::byte>> cells = cells_of(pages);
  for (size_t idx = 0; idx < pages.size(); ++idx)
    std::copy(cells[idx].begin(), cells[idx].end(), pages[idx].bytes.begin());
  const std::lock_guard lock(mutex_);
  num_kv_pages_read_ += static_cast<int64_t>(pages.size());
}

void FakeModel::write_kv_pages(std::span<const KvPageBytes> pages) {
  const std::vector<std::span<std::byte>> cells = cells_of(pages);
  for (size_t idx = 0; idx < pages.size(); ++idx)
    std::copy_n(pages[idx].bytes.begin(), cells[idx].size(), cells[idx].begin());
  const std::lock_guard lock(mutex_);
  num_kv_pages_written_ += static_cast<int64_t>(pages.size());
}

int64_t FakeModel::num_kv_pages_read() const {
  const std::lock_guard lock(mutex_);
  return num_kv_pages_read_;
}

int64_t FakeModel::num_kv_pages_written() const {
  const std::lock_guard lock(mutex_);
  return num_kv_pages_written_;
}

void FakeModel::violate(const std::string& message) {
  const std::lock_guard lock(mutex_);
  if (violations_.size() < 20) violations_.push_back(message);
}

void FakeModel::release_memory(const ModelMemory& what) {
  const std::lock_guard lock(mutex_);
  if (releases_fail_) throw std::runtime_error("the fake device failed");
  released_ = released_ | what;
  if (what.kv_cache) std::fill(cells_.begin(), cells_.end(), Cell());
}

void FakeModel::restore_memory(const ModelMemory& what, const ProgressFn& progress) {
  std::unique_lock lock(mutex_);
  ++num_restores_;
  is_restoring_ = true;
  changed_.notify_all();
  do {
    changed_.wait_for(lock, std::chrono::milliseconds(1), [this] { return !holds_restores_; });
    lock.unlock();
    progress({.stage = "weights", .done_bytes = 1, .total_bytes = 4});
    lock.lock();
  } while (holds_restores_);
  is_restoring_ = false;
  if (num_failing_restores_ > 0) {
    --num_failing_restores_;
    throw LoadError("the fake device is full\nmemory map");
  }
  if ((what - released_).any()) violations_.emplace_back("memory was restored that was there");
  released_ = released_ - what;
}

ModelMemory FakeModel::released() const {
  const std::lock_guard lock(mutex_);
  return released_;
}

int64_t FakeModel::num_restores() const {
  const std::lock_guard lock(mutex_);
  return num_restores_;
}

void FakeModel::fail_restores(int32_t num_restores) {
  const std::lock_guard lock(mutex_);
  num_failing_restores_ = num_restores;
}

void FakeModel::fail_releases() {
  const std::lock_guard lock(mutex_);
  releases_fail_ = true;
}

void FakeModel::hold_restores() {
  const std::lock_guard lock(mutex_);
  holds_restores_ = true;
}

void FakeModel::let_restores_go() {
  const std::lock_guard lock(mutex_);
  holds_restores_ = false;
  changed_.notify_all();
}

void FakeModel::wait_until_restoring() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return is_restoring_; });
}

void FakeModel::hold_at_step(int64_t step_idx) {
  const std::lock_guard lock(mutex_);
  hold_from_step_ = step_idx;
  changed_.notify_all();  // a step held before that number goes on
}

void FakeModel::resume() {
  const std::lock_guard lock(mutex_);
  hold_from_step_ = kNever;
  changed_.notify_all();
}

void FakeModel::wait_until_held() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return held_step_ >= hold_from_step_; });
}

int64_t FakeModel::num_steps() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(traces_.size());
}

std::vector<StepTrace> FakeModel::traces() const {
  const std::lock_guard lock(mutex_);
  return traces_;
}

std::vector<std::string> FakeModel::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

void HashModel::logits_of(std::span<const int32_t> history, std::span<float> logits) const {
  uint64_t hash = kEmptyHistoryHash;
  for (const int32_t token_id : history) hash = extend_history_hash(hash, token_id);
  for (size_t token_idx = 0; token_idx < logits.size(); ++token_idx) {
    // 24 bits in [-8, 8): exact in float, so that ties are rare but possible.
    const uint64_t bits = mix(hash + token_idx) >> 40;
    logits[token_idx] = static_cast<float>(bits) * 0x1p-20f - 8.0f;
  }
}

std::vector<int32_t> HashModel::expected_greedy(std::span<const int32_t> prompt_ids,
                                                int32_t num_tokens) const {
  std::vector<int32_t> history(prompt_ids.begin(), prompt_ids.end());
  std::vector<float> logits(static_cast<size_t>(vocab_size()));
  for (int32_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    logits_of(history, logits);
    const auto best = std::max_element(logits.begin(), logits.end());
    history.push_back(static_cast<int32_t>(best - logits.begin()));
  }
  return {history.begin() + static_cast<int64_t>(prompt_ids.size()), history.end()};
}

void AnswerModel::logits_of(std::span<const int32_t> history, std::span<float> logits) const {
  constexpr float kScriptLogit = 30.0f;
  const std::vector<int32_t>& marker = script_.generation_prompt;
  const auto found = std::find_end(history.begin(), history.end(), marker.begin(), marker.end());
  if (found == history.end()) throw std::logic_error("the prompt holds no generation prompt");
  const size_t num_prompt = static_cast<size_t>(found - history.begin()) + marker.size();
  const std::vector<int32_t> answer = script_.script(history.first(num_prompt));
  const size_t num_said = history.size() - num_prompt;
  std::fill(logits.begin(), logits.end(), 0.0f);
  const int32_t next = num_said < answer.size() ? answer[num_said] : script_.end_token_id;
  logits[static_cast<size_t>(next)] = kScriptLogit;
}

ScriptFn answers_by_substring(
    std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>> answers,
    std::vector<int32_t> otherwise) {
  return [answers = std::move(answers),
          otherwise = std::move(otherwise)](std::span<const int32_t> prompt) {
    const std::vector<int32_t>* chosen = &otherwise;
    int64_t latest = -1;
    for (const auto& [key, answer] : answers) {
      const auto found = std::find_end(prompt.begin(), prompt.end(), key.begin(), key.end());
      if (key.empty() || found == prompt.end() || found - prompt.begin() <= latest) continue;
      latest = found - prompt.begin();
      chosen = &answer;
    }
    return *chosen;
  };
}

}  // namespace tandem::tests
