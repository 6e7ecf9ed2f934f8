// With random logits in place of a model: every call that comes about is valid, by the judgement of
// a validator that shares nothing with the grammars.
#include <algorithm>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/engine.h"
#include "runtime/grammar/answer_grammar.h"
#include "runtime/grammar/json_schema.h"
#include "runtime/tokenizer/assistant_parser.h"
#include "tests/runtime/engine/collecting_sink.h"
#include "tests/runtime/grammar/grammar_fixture.h"
#include "tests/runtime/grammar/random_schema.h"
#include "tests/runtime/grammar/schema_validator.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kNumCalls = 1'000;  // sanitizers take minutes for more
#else
constexpr int kNumCalls = 10'000;
#endif

// Every row is another stretch of one long noise.
class NoiseModel : public ForwardModel {
 public:
  explicit NoiseModel(int32_t vocab_size) : vocab_size_(vocab_size), noise_(4 * vocab_size) {
    for (float& logit : noise_) logit = static_cast<float>(next() >> 40) * 0x1p-21f;  // [0, 8)
  }

  void forward(const Batch& batch, MatrixView<float> logits) override {
    for (size_t row_idx = 0; row_idx < batch.logit_token_idx.size(); ++row_idx) {
      const auto begin = static_cast<int64_t>((next() >> 33) % (3 * noise_.size() / 4));
      std::copy_n(noise_.begin() + begin, vocab_size_,
                  logits.row(static_cast<int64_t>(row_idx)).begin());
    }
  }
  [[nodiscard]] int32_t vocab_size() const override { return vocab_size_; }
  [[nodiscard]] int32_t num_kv_pages() const override { return 4096; }
  [[nodiscard]] int32_t max_batch_tokens() const override { return 256; }
  [[nodiscard]] int32_t max_logit_rows() const override { return 64; }
  [[nodiscard]] int32_t max_context_tokens() const override { return 4096; }

 private:
  uint64_t next() { return state_ = state_ * 6364136223846793005u + 1442695040888963407u; }

  int32_t vocab_size_;
  std::vector<float> noise_;
  uint64_t state_ = 1;
};

struct Tally {
  int num_calls = 0;  // complete
  int num_invalid = 0;
  int num_cut = 0;     // by the limit of tokens, in the middle of a call
  int num_failed = 0;  // requests
  std::string first_wrong;
};

struct RandomTool {
  ToolDeclaration declaration;
  json::value schema;
};

std::vector<RandomTool> random_tools(std::mt19937_64& random, int num_tools) {
  std::vector<RandomTool> tools;
  while (static_cast<int>(tools.size()) < num_tools) {
    json::value schema = random_object_schema(random);
    const std::string text = json::serialize(schema);
    // Of what can be enforced in full; the exact policy is the judge of that.
    if (!json_schema_grammar(text, SchemaPolicy::kExact)) continue;
    const std::string name = "tool_" + std::to_string(tools.size());
    tools.push_back({{name, text}, std::move(schema)});
  }
  return tools;
}

void judge(const std::vector<int32_t>& token_ids,
           const Tokenizer& tokenizer,
           const std::vector<RandomTool>& tools,
           Tally& tally) {
  AssistantParserOptions options;
  for (const RandomTool& tool : tools) options.tools.push_back(tool.declaration);
  AssistantParser parser(tokenizer, options);
  std::vector<AssistantDelta> deltas;
  for (const int32_t id : token_ids) parser.push(id, deltas);
  const bool is_cut = parser.in_unclosed_call();
  parser.finish(deltas);
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  for (const AssistantDelta& delta : deltas) {
    if (delta.kind == AssistantDelta::Kind::kToolCallBegin) calls.emplace_back(delta.call_name, "");
    if (delta.kind == AssistantDelta::Kind::kToolCallArguments) calls.back().second += delta.text;
  }
  if (is_cut && !calls.empty()) {
    calls.pop_back();
    ++tally.num_cut;
  }
  for (const auto& [name, arguments] : calls) {
    ++tally.num_calls;
    const auto tool = std::find_if(tools.begin(), tools.end(), [&, wanted = name](const auto& one) {
      return one.declaration.name == wanted;
    });
    std::string wrong =
        tool == tools.end() ? "no such function: " + name : find_violation(arguments, tool->schema);
    if (wrong.empty()) continue;
    if (tally.num_invalid++ == 0) {
      tally.first_wrong = wrong + "\n" + arguments + "\n" +
                          (tool == tools.end() ? "" : tool->declaration.parameters_json);
    }
  }
}

// Requests of several calls each, until `num_calls` have been made.
Tally make_calls(const Tokenizer& tokenizer,
                 int32_t vocab_size,
                 int num_calls,
                 int num_requests,
                 int max_new_tokens) {
  NoiseModel model(vocab_size);
  Engine engine(model, {.max_sequences = 32, .prefix_cache = false});
  GrammarCompiler compiler(tokenizer, vocab_size);
  std::mt19937_64 random(7);
  Tally tally;
  while (tally.num_calls < num_calls && tally.num_failed == 0) {
    const std::vector<RandomTool> tools = random_tools(random, 3);
    AnswerRules rules{.call_required = true, .max_calls = 6};
    for (const RandomTool& tool : tools) rules.tools.push_back(tool.declaration);
    rules.thinking_budget = 0;
    const auto grammar = compiler.compile(rules);
    REQUIRE(grammar.ok());
    REQUIRE((*grammar)->unenforced().empty());
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (int request_idx = 0; request_idx < num_requests; ++request_idx) {
      GenerationRequest request;
      request.prompt_ids = {1};
      request.sampling.temperature = request_idx % 2 == 0 ? 0.0f : 1.0f;
      request.sampling.seed = random();
      request.max_new_tokens = max_new_tokens;
      request.stop_token_ids = {tokenizer.specials().im_end};
      request.constraint = (*grammar)->start();
      sinks.push_back(std::make_shared<CollectingSink>());
      request.sink = sinks.back();
      REQUIRE(engine.submit(std::move(request)).ok());
    }
    for (const auto& sink : sinks) {
      TokenEvent end = sink->wait();
      // A machine that is busy with other things may take its time.
      for (int patience = 0; end.error == "timed out" && patience < 5; ++patience)
        end = sink->wait();
      if (end.finish_reason == FinishReason::kError) {
        ++tally.num_failed;
        tally.first_wrong = end.error;
      }
      judge(sink->token_ids(), tokenizer, tools, tally);
    }
  }
  return tally;
}

void check(const Tally& tally, int num_calls) {
  INFO(tally.first_wrong);
  CHECK(tally.num_failed == 0);
  CHECK(tally.num_invalid == 0);
  CHECK(tally.num_calls >= num_calls);
}

TEST_CASE("ten thousand calls of random schemas by random logits are all valid",
          "[grammar][random]") {
  const Tally tally = make_calls(demo_tokenizer(), kDemoVocabSize, kNumCalls, 32, 2000);
  check(tally, kNumCalls);
  CHECK(tally.num_cut < tally.num_calls / 4);
}

TEST_CASE("the same over the published vocabulary", "[grammar][random]") {
  const auto tokenizer = published_tokenizer();
  if (!tokenizer) SKIP("no model/tiktoken.model in the shared folder (TANDEM_SHARED_DIR)");
  check(make_calls(*tokenizer, kPublishedVocabSize, 10, 4, 300), 10);
}

}  // namespace
}  // namespace tandem::tests
