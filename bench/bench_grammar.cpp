// What constrained answers cost on a real vocabulary: compiling the schema of a tool, the first
// time and again, and the mask of each token of a call, for arguments as a model writes them and
// for a random walk through everything that is allowed.
//   bench_grammar MODEL_DIR [--threads N] [--json]       (MODEL_DIR has tiktoken.model)
#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "bench/support/report.h"
#include "runtime/grammar/answer_grammar.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/topology/cpu_isa.h"
#include "runtime/topology/topology.h"

namespace tandem::bench {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;
using Tokens = TokenConstraint::Allowance::Tokens;

constexpr int32_t kVocabSize = 163840;
constexpr int kNumCompilations = 5;
constexpr int kNumCalls = 20;
constexpr int kMaxCallTokens = 400;
constexpr double kMaskLimitUs = 200;
constexpr double kCompileLimitMs = 200;

struct Subject {
  std::string name;
  ToolDeclaration tool;
  std::string arguments;  // as a model writes them; "" for none
};

json::object kind_of_property(int idx) {
  switch (idx % 7) {
    case 0:
      return {{"type", "string"}};
    case 1:
      return {{"type", "integer"}, {"minimum", idx}, {"maximum", 1000 * (idx + 1)}};
    case 2:
      return {{"enum", {"alpha", "beta", "gamma", nullptr}}};
    case 3:
      return {{"type", "string"}, {"pattern", "^[a-z][a-z0-9_-]{2,30}$"}};
    case 4:
      return {{"type", "array"}, {"items", {{"type", "number"}}}, {"maxItems", 16}};
    case 5:
      return {{"type", "string"}, {"minLength", 1}};
    default:
      return {{"anyOf", json::array{{{"type", "boolean"}}, {{"type", "null"}}}}};
  }
}

// Nested objects of all kinds until the text has `size_bytes`; no two sections are alike. Clients
// describe their properties; without descriptions all of the text is grammar.
std::string schema_of_size(size_t size_bytes, bool is_described) {
  json::object properties;
  json::array required;
  for (int idx = 0; json::serialize(properties).size() + 200 < size_bytes; ++idx) {
    json::object inner;
    for (int inner_idx = 0; inner_idx < 4; ++inner_idx) {
      json::object property = kind_of_property(idx + inner_idx);
      if (is_described)
        property["description"] = "What it is, in which unit, and when it may be left out";
      inner["field_" + std::to_string(inner_idx)] = std::move(property);
    }
    const std::string name = "section_" + std::to_string(idx);
    properties[name] = {{"type", "object"},
                        {"properties", inner},
                        {"required", json::array{"field_0", "field_2"}},
                        {"additionalProperties", false}};
    if (idx % 2 == 0) required.push_back(json::string(name));
  }
  return json::serialize(
      json::object{{"type", "object"}, {"properties", properties}, {"required", required}});
}

std::vector<Subject> subjects() {
  const std::string four_fields =
      R"({"type":"object","properties":{"city":{"type":"string"},"unit":{"enum":["C","F"]},)"
      R"("days":{"type":"integer","minimum":1,"maximum":14},"exact":{"type":"boolean"}},)"
      R"("required":["city"]})";
  const std::string file =
      R"({"type":"object","properties":{"path":{"type":"string"},"content":{"type":"string"}},)"
      R"("required":["path","content"],"additionalProperties":false})";
  std::string source;
  for (int line = 0; line < 120; ++line)
    source += R"(  for (int idx = 0; idx < num_rows; ++idx) sum += row[idx] * scale;\n)";
  return {{"four fields",
           {"get_weather", four_fields},
           R"({"city": "Beijing", "unit": "C", "days": 3, "exact": true})"},
          {"a file of 8 KB",
           {"write_file", file},
           R"({"path": "src/sum.cpp", "content": ")" + source + R"("})"},
          {"limited lengths",
           {"post", R"({"type":"object","properties":{"title":{"type":"string","maxLength":60},)"
                    R"("body":{"type":"string","minLength":200,"maxLength":2000},"tags":{"type":)"
                    R"("array","items":{"type":"string","maxLength":20}}},)"
                    R"("required":["title","body"]})"},
           R"({"title": "Sums of rows", "body": ")" + source.substr(0, source.size() / 6) +
               R"(", "tags": ["c++", "rows"]})"},
          {"any JSON object",
           {"anything", R"({"type":"object"})"},
           R"({"a": [1, 2.5, {"b": null}], "text": "some text", "flag": false})"},
          {"schema of 10 KB", {"large", schema_of_size(10 << 10, true)}, ""},
          {"10 KB undescribed", {"dense", schema_of_size(10 << 10, false)}, ""}};
}

double us_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

struct CallTimes {
  std::vector<double> mask_us;
  std::vector<double> accept_us;
};

// Writes one call: `script` while it lasts and is allowed, else at random.
void write_call(const AnswerGrammar& grammar,
                const Tokenizer& tokenizer,
                const std::vector<int32_t>& script,
                std::mt19937& random,
                CallTimes& times) {
  const auto constraint = grammar.start();
  std::vector<uint32_t> mask((kVocabSize + 31) / 32);
  std::vector<int32_t> allowed;
  for (int idx = 0; idx < std::max<int>(kMaxCallTokens, static_cast<int>(script.size())); ++idx) {
    auto begin = Clock::now();
    const auto allowance = constraint->allow(mask);
    const double us = us_since(begin);
    if (allowance.tokens != Tokens::kMasked) return;
    times.mask_us.push_back(us);
    int32_t chosen = idx < static_cast<int>(script.size()) ? script[idx] : -1;
    if (chosen < 0) {
      allowed.clear();
      for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
        if (mask[id / 32] >> (id % 32) & 1u) allowed.push_back(id);
      }
      chosen = allowed[random() % allowed.size()];
    }
    begin = Clock::now();
    const bool fits = constraint->accept(chosen);
    times.accept_us.push_back(us_since(begin));
    if (!fits) throw std::runtime_error("a scripted call that its grammar refuses");
  }
}

Number percentile(std::vector<double> values, double share, int num_decimals) {
  std::sort(values.begin(), values.end());
  return {values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))],
          num_decimals};
}

AnswerRules rules_of(const Subject& subject) {
  AnswerRules rules;
  rules.tools = {subject.tool};
  rules.call_required = true;
  rules.max_calls = 1;
  return rules;
}

// Milliseconds of compiling with nothing cached, and of doing it again.
void measure_compiling(const Tokenizer& tokenizer,
                       const Subject& subject,
                       int num_threads,
                       Report& report) {
  std::vector<double> cold, warm;
  for (int run = 0; run < kNumCompilations; ++run) {
    GrammarCompiler compiler(tokenizer, kVocabSize, {.num_threads = num_threads});
    for (std::vector<double>* times : {&cold, &warm}) {
      const auto begin = Clock::now();
      const auto grammar = compiler.compile(rules_of(subject));
      times->push_back(us_since(begin) / 1000);
      if (!grammar || !(*grammar)->unenforced().empty())
        throw std::runtime_error(subject.name + " is not enforced in full");
    }
  }
  report.add_row("compiling, ms",
                 {{"of", subject.name},
                  {"schema bytes", static_cast<int64_t>(subject.tool.parameters_json.size())},
                  {"first, median", percentile(cold, 0.5, 1)},
                  {"first, worst", percentile(cold, 1.0, 1)},
                  {"again", percentile(warm, 0.5, 2)},
                  {"limit", Number{kCompileLimitMs, 0}}});
}

void measure_masks(const Tokenizer& tokenizer, const Subject& subject, Report& report) {
  GrammarCompiler compiler(tokenizer, kVocabSize);
  const auto grammar = compiler.compile(rules_of(subject));
  const auto& markers = tokenizer.specials();
  std::mt19937 random(1);
  std::vector<int32_t> head = {markers.tool_calls_section_begin, markers.tool_call_begin};
  tokenizer.encode_append("functions." + subject.tool.name + ":0", Tokenizer::Specials::kAsText,
                          head);
  head.push_back(markers.tool_call_argument_begin);
  const auto add = [&](const std::string& what, const CallTimes& times) {
    report.add_row("mask of a token, us", {{"of", subject.name + ", " + what},
                                           {"tokens", static_cast<int64_t>(times.mask_us.size())},
                                           {"median", percentile(times.mask_us, 0.5, 1)},
                                           {"p99", percentile(times.mask_us, 0.99, 1)},
                                           {"worst", percentile(times.mask_us, 1.0, 1)},
                                           {"accept p99", percentile(times.accept_us, 0.99, 1)},
                                           {"limit of p99", Number{kMaskLimitUs, 0}}});
  };
  if (!subject.arguments.empty()) {
    std::vector<int32_t> script = head;
    tokenizer.encode_append(subject.arguments, Tokenizer::Specials::kAsText, script);
    script.insert(script.end(), {markers.tool_call_end, markers.tool_calls_section_end});
    CallTimes times;
    for (int call = 0; call < kNumCalls; ++call)
      write_call(**grammar, tokenizer, script, random, times);
    add("as written", times);
  }
  CallTimes times;
  for (int call = 0; call < kNumCalls; ++call)
    write_call(**grammar, tokenizer, head, random, times);
  add("at random", times);
}

int run(const std::string& model_dir, int num_threads, bool as_json) {
  const Tokenizer tokenizer = Tokenizer::load(model_dir, kVocabSize);
  Report report("bench_grammar", as_json);
  report.add_machine(Topology::detect(), num_threads, isa_name(active_isa()));
  report.add_fact("vocabulary", int64_t{tokenizer.vocab_size()});
  const auto begin = Clock::now();
  const GrammarCompiler compiler(tokenizer, kVocabSize);
  report.add_fact("table of the vocabulary, ms", Number{us_since(begin) / 1000, 1});
  for (const Subject& subject : subjects())
    measure_compiling(tokenizer, subject, num_threads, report);
  for (const Subject& subject : subjects()) measure_masks(tokenizer, subject, report);
  report.print();
  return 0;
}

}  // namespace
}  // namespace tandem::bench

int main(int num_args, char** args) {
  CLI::App app("Masks and compilation of grammars on a real vocabulary");
  std::string model_dir;
  int num_threads = 2;
  bool as_json = false;
  app.add_option("model_dir", model_dir, "folder with tiktoken.model")->required();
  app.add_option("--threads", num_threads, "of one compilation");
  app.add_flag("--json", as_json, "one JSON object instead of tables");
  CLI11_PARSE(app, num_args, args);
  try {
    return tandem::bench::run(model_dir, num_threads, as_json);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_grammar: %s\n", error.what());
    return 1;
  }
}
