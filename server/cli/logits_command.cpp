#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/reference/reference_model.h"
#include "server/cli/commands.h"
#include "server/cli/demo_model.h"
#include "server/cli/loaded_model.h"
#include "server/cli/safetensors_writer.h"
#include "server/cli/terminal.h"

namespace tandem::cli {
namespace {

// [1, 2, 3] or {"input_ids": [1, 2, 3]}; every id inside the vocabulary.
std::vector<int32_t> read_token_ids(const std::string& path, int32_t vocab_size) {
  std::ifstream file(path);
  if (!file) throw LoadError("--tokens " + path + ": cannot read the file");
  std::ostringstream text;
  text << file.rdbuf();
  boost::json::error_code ec;
  boost::json::value json = boost::json::parse(text.str(), ec);
  if (ec) throw ConfigError("--tokens " + path + ": not JSON: " + ec.message());
  if (const auto* object = json.if_object()) {
    const auto* input_ids = object->if_contains("input_ids");
    if (input_ids == nullptr)
      throw ConfigError("--tokens " + path + ": an object without \"input_ids\"");
    boost::json::value inner = *input_ids;
    json = std::move(inner);
  }
  const auto* array = json.if_array();
  if (array == nullptr || array->empty())
    throw ConfigError(
        "--tokens " + path +
        ": expected a list of token ids that is not empty, or {\"input_ids\": [...]}");
  std::vector<int32_t> token_ids;
  for (const auto& value : *array) {
    const int64_t* id = value.if_int64();
    if (id == nullptr || *id < 0 || *id >= vocab_size)
      throw ConfigError(
          fmt::format("--tokens {}: entry {} is {}; expected a whole number from 0 to {}", path,
                      token_ids.size(), boost::json::serialize(value), vocab_size - 1));
    token_ids.push_back(static_cast<int32_t>(*id));
  }
  return token_ids;
}

void write_reference(const LogitsOptions& options,
                     const Checkpoint& checkpoint,
                     std::span<const int32_t> token_ids,
                     MatrixFileWriter& writer) {
  const ReferenceModel reference(
      checkpoint, options.experts_int4 ? ExpertPrecision::kInt4 : ExpertPrecision::kAsStored);
  const auto form = options.model.attention == Attention::kAbsorbed ? AttentionForm::kAbsorbed
                                                                    : AttentionForm::kExpanded;
  writer.append(reference.run(token_ids, form).logits);
}

// Every position's logits, in steps of `chunk_tokens`: what the engine does with a prompt, with a
// row for each token.
void write_production(ForwardModel& model,
                      std::span<const int32_t> token_ids,
                      int32_t chunk_tokens,
                      MatrixFileWriter& writer) {
  const auto num_tokens = static_cast<int32_t>(token_ids.size());
  std::vector<int32_t> page_ids((num_tokens + kPageSizeTokens - 1) / kPageSizeTokens);
  std::iota(page_ids.begin(), page_ids.end(), 0);
  std::vector<int32_t> rows(static_cast<size_t>(chunk_tokens));
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> logits(static_cast<size_t>(chunk_tokens) * model.vocab_size());
  for (int32_t begin = 0; begin < num_tokens; begin += chunk_tokens) {
    const int32_t step_tokens = std::min(chunk_tokens, num_tokens - begin);
    BatchItem item;
    item.num_tokens = step_tokens;
    item.context_size_tokens = begin;
    item.page_ids = page_ids;
    Batch batch;
    batch.token_ids = token_ids.subspan(begin, step_tokens);
    batch.items = {&item, 1};
    batch.logit_token_idx = std::span<const int32_t>(rows).first(step_tokens);
    model.forward(batch, {logits.data(), step_tokens, model.vocab_size()});
    writer.append(std::span<const float>(logits).first(static_cast<size_t>(step_tokens) *
                                                       model.vocab_size()));
  }
}

}  // namespace

int run_logits(const LogitsOptions& options, const ModelFactory& factory) {
  const std::filesystem::path model_dir = resolve_model_dir(options.model.model_dir);
  const ModelConfig config = ModelConfig::load(model_dir);
  const std::vector<int32_t> token_ids = read_token_ids(options.tokens_path, config.vocab_size);
  const auto num_tokens = static_cast<int64_t>(token_ids.size());
  if (num_tokens > config.max_position_embeddings)
    throw ConfigError(fmt::format("--tokens {}: {} tokens, the model takes {} at most",
                                  options.tokens_path, num_tokens, config.max_position_embeddings));

  MatrixFileWriter writer(options.out_path, "logits", num_tokens, config.vocab_size);
  if (options.reference) {
    write_reference(options, Checkpoint::open(model_dir), token_ids, writer);
  } else {
    ModelLimits limits;
    limits.max_batch_tokens =
        static_cast<int32_t>(std::min<int64_t>(options.chunk_tokens, num_tokens));
    limits.max_logit_rows = limits.max_batch_tokens;
    limits.kv_cache_tokens = (num_tokens + kPageSizeTokens - 1) / kPageSizeTokens * kPageSizeTokens;
    limits.attention = options.model.attention;
    limits.expert_activations = options.model.expert_activations;
    limits.gpus = options.model.gpus;
    limits.gpu_expert_layers = options.model.gpu_expert_layers;
    limits.kv_host_size_bytes = 0;  // nothing keeps pages here
    ProgressBar bar(stderr, "loading");
    const auto loaded = load_model(model_dir, options.model.num_threads, limits, factory,
                                   [&](const Progress& p) { bar.update(p); });
    bar.finish();
    write_production(*loaded->model, token_ids, limits.max_batch_tokens, writer);
  }
  writer.finish();
  fmt::print("{}: logits F32 [{}, {}] of the {} path\n", options.out_path, num_tokens,
             config.vocab_size, options.reference ? "reference" : "production");
  return 0;
}

}  // namespace tandem::cli
