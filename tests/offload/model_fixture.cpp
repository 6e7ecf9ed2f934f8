#include "tests/offload/model_fixture.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
#include <regex>

#include "runtime/tokenizer/chat.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem::tests {
namespace fs = std::filesystem;

std::string golden_dir(const std::string& name) {
  return std::string(TANDEM_SOURCE_DIR) + "/tests/data/goldens/" + name;
}

const std::vector<std::string>& golden_names() {
  static const std::vector<std::string> kNames = {"k2_thinking", "k2_5_nested", "moonlight",
                                                  "grouped_router", "real_head"};
  return kNames;
}

AllExpertsCopy::AllExpertsCopy(const std::string& name)
    : dir_(fs::temp_directory_path() /
           ("tandem_all_experts_" + name + "_" + std::to_string(getpid()))) {
  fs::remove_all(dir_);
  fs::create_directory(dir_);
  for (const auto& entry : fs::directory_iterator(golden_dir(name))) {
    if (entry.path().filename() == "config.json") continue;
    fs::create_symlink(fs::absolute(entry.path()), dir_ / entry.path().filename());
  }
  std::ifstream source(golden_dir(name) + "/config.json");
  std::string config{std::istreambuf_iterator<char>(source), {}};
  const int32_t num_experts = Checkpoint::open(golden_dir(name)).config().n_routed_experts;
  const auto set = [&](const std::string& key, int32_t value) {
    config = std::regex_replace(config, std::regex("\"" + key + "\": [0-9]+"),
                                "\"" + key + "\": " + std::to_string(value));
  };
  set("num_experts_per_tok", num_experts);
  set("n_group", 1);
  set("topk_group", 1);
  std::ofstream(dir_ / "config.json") << config;
}

AllExpertsCopy::~AllExpertsCopy() { fs::remove_all(dir_); }

int32_t num_moe_layers(const std::string& dir) {
  return Checkpoint::open(dir).config().num_moe_layers();
}

std::vector<int32_t> random_tokens(int32_t num_tokens, int32_t vocab_size, uint64_t seed) {
  std::vector<int32_t> token_ids(num_tokens);
  uint64_t state = seed * 0x9E3779B97F4A7C15u + 1;
  for (int32_t& token_id : token_ids) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    token_id = static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab_size));
  }
  return token_ids;
}

LoadedModel::LoadedModel(const std::string& dir, int num_threads, gpu::MlaForm form)
    : LoadedModel(dir, num_threads, offload::KimiK2Options{.mla_form = form}) {}

LoadedModel::LoadedModel(const std::string& dir, int num_threads, offload::KimiK2Options options)
    : checkpoint(Checkpoint::open(dir)),
      pool(Topology::detect(), {.num_threads = num_threads, .pin = false}) {
  options.kv_cache_tokens = 1536;
  options.max_batch_tokens = 320;
  options.max_logit_rows = 320;
  options.max_context_tokens = 512;
  options.warm_up = false;  // slow on an emulated card; a test of its own has it
  model = offload::KimiK2::load(checkpoint, pool, options, {});
}

StepTokens take_next(std::span<SequenceState> sequences, std::span<const int32_t> num_new) {
  StepTokens step;
  for (size_t idx = 0; idx < sequences.size(); ++idx) {
    if (num_new[idx] == 0) continue;
    SequenceState& sequence = sequences[idx];
    step.items.push_back({.token_begin = static_cast<int32_t>(step.token_ids.size()),
                          .num_tokens = num_new[idx],
                          .context_size_tokens = sequence.done_tokens,
                          .page_ids = sequence.page_ids});
    const auto first = sequence.token_ids.begin() + sequence.done_tokens;
    step.token_ids.insert(step.token_ids.end(), first, first + num_new[idx]);
    sequence.done_tokens += num_new[idx];
  }
  return step;
}

void run_step(ForwardModel& model,
              std::span<SequenceState> sequences,
              std::span<const int32_t> num_new) {
  const auto [token_ids, items] = take_next(sequences, num_new);
  std::vector<int32_t> logit_token_idx(token_ids.size());
  std::iota(logit_token_idx.begin(), logit_token_idx.end(), 0);
  const int32_t vocab_size = model.vocab_size();
  std::vector<float> logits(token_ids.size() * static_cast<size_t>(vocab_size));
  model.forward(
      {.token_ids = token_ids, .items = items, .logit_token_idx = logit_token_idx},
      MatrixView<float>(logits.data(), static_cast<int64_t>(token_ids.size()), vocab_size));
  auto row = logits.begin();
  for (size_t idx = 0; idx < sequences.size(); ++idx) {
    const auto size = static_cast<int64_t>(num_new[idx]) * vocab_size;
    sequences[idx].logits.insert(sequences[idx].logits.end(), row, row + size);
    row += size;
  }
}

std::vector<int32_t> continue_greedily(ForwardModel& model,
                                       const std::vector<int32_t>& prompt,
                                       int32_t num_new) {
  const int32_t vocab_size = model.vocab_size();
  SequenceState sequence;
  sequence.token_ids = prompt;
  const auto num_pages = (static_cast<int32_t>(prompt.size()) + num_new) / kPageSizeTokens + 1;
  for (int32_t page = 0; page < num_pages; ++page) sequence.page_ids.push_back(num_pages - page);
  auto next = static_cast<int32_t>(prompt.size());
  for (int32_t idx = 0; idx < num_new; ++idx) {
    run_step(model, {&sequence, 1}, {&next, 1});
    const auto last = sequence.logits.end() - vocab_size;
    sequence.token_ids.push_back(
        static_cast<int32_t>(std::max_element(last, sequence.logits.end()) - last));
    next = 1;
  }
  return {sequence.token_ids.begin() + static_cast<int64_t>(prompt.size()),
          sequence.token_ids.end()};
}

std::string demo_dir() { return std::string(TANDEM_SOURCE_DIR) + "/server/demo/model"; }

std::vector<std::vector<int32_t>> demo_prompts() {
  const Tokenizer tokenizer =
      Tokenizer::load(demo_dir(), Checkpoint::open(demo_dir()).config().vocab_size);
  std::vector<std::vector<int32_t>> prompts;
  for (const char* question :
       {"Hello", "which one is bigger, 9.11 or 9.9? think carefully.", "Who are you?"}) {
    ChatPrompt prompt;
    prompt.messages.push_back({.role = "user", .content = question});
    prompts.push_back(render_chat(tokenizer, prompt).ids);
  }
  return prompts;
}

std::vector<float> run_chunked(ForwardModel& model,
                               std::span<const int32_t> token_ids,
                               int32_t chunk_tokens) {
  SequenceState sequence;
  sequence.token_ids.assign(token_ids.begin(), token_ids.end());
  const size_t num_pages = (token_ids.size() + kPageSizeTokens - 1) / kPageSizeTokens;
  // Every second page, backwards: neighbours in the sequence are not neighbours in memory.
  for (size_t page = 0; page < num_pages; ++page) {
    sequence.page_ids.push_back(static_cast<int32_t>(2 * (num_pages - page) - 1));
  }
  while (sequence.done_tokens < static_cast<int32_t>(token_ids.size())) {
    const int32_t left = static_cast<int32_t>(token_ids.size()) - sequence.done_tokens;
    const int32_t num_new = std::min(chunk_tokens, left);
    run_step(model, {&sequence, 1}, {&num_new, 1});
  }
  return sequence.logits;
}

}  // namespace tandem::tests
