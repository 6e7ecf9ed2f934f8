#include "server/serving_model.h"

#include <algorithm>
#include <chrono>

#include "runtime/tokenizer/chat.h"

namespace tandem::server {
namespace {

std::vector<int32_t> stop_token_ids(const ModelConfig& config, const SpecialTokens& specials) {
  std::vector<int32_t> ids = config.eos_token_ids;
  ids.insert(ids.end(), {specials.im_end, specials.eos, specials.eot});
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::erase_if(ids, [&](int32_t id) { return id < 0 || id >= config.vocab_size; });
  return ids;
}

// K2-Thinking opens <think> itself, K2.5's template does it for the model.
bool generation_prompt_opens_think(const Tokenizer& tokenizer) {
  const int32_t think_begin = tokenizer.specials().think_begin;
  if (think_begin < 0) return false;
  ChatPrompt prompt;
  prompt.messages.resize(1);
  prompt.messages[0].role = "user";
  prompt.messages[0].content = "hello";
  const RenderedPrompt rendered = render_chat(tokenizer, prompt);
  return !rendered.ids.empty() && rendered.ids.back() == think_begin;
}

}  // namespace

ServingModel make_serving_model(Engine& engine,
                                const Tokenizer& tokenizer,
                                const ModelConfig& config) {
  ServingModel model;
  model.engine = &engine;
  model.tokenizer = &tokenizer;
  model.stop_token_ids = stop_token_ids(config, tokenizer.specials());
  model.generation_prompt_opens_think = generation_prompt_opens_think(tokenizer);
  model.created_unix_s = std::chrono::duration_cast<std::chrono::seconds>(
                             std::chrono::system_clock::now().time_since_epoch())
                             .count();
  model.model_type = config.model_type;
  return model;
}

}  // namespace tandem::server
