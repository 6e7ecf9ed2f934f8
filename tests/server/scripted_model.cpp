#include "tests/server/scripted_model.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <thread>

namespace tandem::tests {
namespace {

std::string base64(unsigned char byte) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  return {kDigits[byte >> 2], kDigits[(byte & 3) << 4], '=', '='};
}

constexpr float kSecondChoiceLogit = 10.0f;  // of 'x': what is sampled when the first is forbidden

}  // namespace

const Tokenizer& byte_tokenizer() {
  static const Tokenizer tokenizer = [] {
    std::string lines;
    for (int byte = 0; byte < 256; ++byte) {
      lines += base64(static_cast<unsigned char>(byte)) + " " + std::to_string(byte) + "\n";
    }
    return Tokenizer::parse(lines, "", 512, "bytes");
  }();
  return tokenizer;
}

ScriptedModel::ScriptedModel(std::vector<Script> scripts,
                             int32_t num_kv_pages,
                             int32_t max_context_tokens)
    : scripts_(std::move(scripts)),
      num_kv_pages_(num_kv_pages),
      max_context_tokens_(max_context_tokens),
      kv_(static_cast<size_t>(num_kv_pages) * kPageSizeTokens, -1) {
  for (const Script& script : scripts_) {
    script_ids_.push_back(byte_tokenizer().encode(script.say, Tokenizer::Specials::kAsTokens));
  }
}

int32_t ScriptedModel::vocab_size() const { return byte_tokenizer().vocab_size(); }

void ScriptedModel::hold() {
  const std::lock_guard lock(mutex_);
  held_ = true;
}

void ScriptedModel::release() {
  const std::lock_guard lock(mutex_);
  held_ = false;
  released_.notify_all();
}

void ScriptedModel::forward(const Batch& batch, MatrixView<float> logits) {
  {
    std::unique_lock lock(mutex_);
    released_.wait(lock, [this] { return !held_; });
  }
  const int64_t step_time_us = step_time_us_;
  if (step_time_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(step_time_us));
  if (fails_.exchange(false)) throw std::runtime_error("the device fell off the bus");

  int64_t row_idx = 0;
  for (const BatchItem& item : batch.items) {
    for (int32_t idx = 0; idx < item.num_tokens; ++idx) {
      const int32_t position = item.context_size_tokens + idx;
      const int32_t page_id = item.page_ids[static_cast<size_t>(position / kPageSizeTokens)];
      kv_[static_cast<size_t>(page_id) * kPageSizeTokens +
          static_cast<size_t>(position % kPageSizeTokens)] =
          batch.token_ids[static_cast<size_t>(item.token_begin + idx)];
    }
    const int32_t token_end = item.token_begin + item.num_tokens;
    for (; row_idx < logits.rows && batch.logit_token_idx[static_cast<size_t>(row_idx)] < token_end;
         ++row_idx) {
      const int32_t token_idx = batch.logit_token_idx[static_cast<size_t>(row_idx)];
      const auto row = logits.row(row_idx);
      std::fill(row.begin(), row.end(), -20.0f);
      row['x'] = kSecondChoiceLogit;
      const int32_t position = item.context_size_tokens + token_idx - item.token_begin;
      row[static_cast<size_t>(next_token(item, position))] = 40.0f;
    }
  }
}

// The script is chosen by the last message before the open assistant header; how much of it was
// said is the number of tokens behind that header.
int32_t ScriptedModel::next_token(const BatchItem& item, int32_t position) const {
  const SpecialTokens& specials = byte_tokenizer().specials();
  const auto token_at = [&](int32_t idx) {
    const int32_t page_id = item.page_ids[static_cast<size_t>(idx / kPageSizeTokens)];
    return kv_[static_cast<size_t>(page_id) * kPageSizeTokens +
               static_cast<size_t>(idx % kPageSizeTokens)];
  };
  int32_t header = position;
  while (header >= 0 && token_at(header) != specials.im_assistant) --header;
  int32_t said_begin = header;
  while (said_begin <= position && token_at(said_begin) != specials.im_middle) ++said_begin;
  if (header < 0 || said_begin > position) return specials.im_end;

  std::string last_message;
  for (int32_t idx = header - 2; idx >= 0 && token_at(idx) != specials.im_end; --idx) {
    const int32_t id = token_at(idx);
    if (id < 256) last_message.insert(last_message.begin(), static_cast<char>(id));
  }
  const auto num_said = static_cast<size_t>(position - said_begin);
  for (size_t script_idx = 0; script_idx < scripts_.size(); ++script_idx) {
    if (last_message.find(scripts_[script_idx].when) == std::string::npos) continue;
    const std::vector<int32_t>& ids = script_ids_[script_idx];
    if (scripts_[script_idx].repeat) return ids[num_said % ids.size()];
    return num_said < ids.size() ? ids[num_said] : specials.im_end;
  }
  return specials.im_end;
}

}  // namespace tandem::tests
