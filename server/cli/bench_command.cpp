// Speed of the model path alone (no HTTP, no sampling), each figure beside the limit measured in
// the same run.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/topology/bandwidth.h"
#include "server/cli/commands.h"
#include "server/cli/demo_model.h"
#include "server/cli/loaded_model.h"
#include "server/cli/terminal.h"

namespace tandem::cli {
namespace {

struct PrefillRow {
  int32_t prompt_tokens = 0;
  double median_s = 0.0;
  [[nodiscard]] double tokens_per_s() const { return prompt_tokens / median_s; }
};

struct DecodeRow {
  int32_t batch_size = 0;
  int32_t context_tokens = 0;
  double p10_step_s = 0.0, median_step_s = 0.0, p90_step_s = 0.0;
  DecodeReads reads = {};        // of one step
  DeviceLaunches launches = {};  // of one step, on cards
  [[nodiscard]] double tokens_per_s() const { return batch_size / median_step_s; }
  [[nodiscard]] double kernels_per_layer(int32_t num_layers) const {
    return static_cast<double>(launches.num_kernels) / num_layers;
  }
  [[nodiscard]] double gb_per_s() const {
    return static_cast<double>(reads.total_bytes()) / median_step_s / 1e9;
  }
};

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double position = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, values.size() - 1);
  const double weight = position - static_cast<double>(below);
  return values[below] * (1.0 - weight) + values[above] * weight;
}

// Peak resident memory of this process: VmHWM of /proc/self/status.
int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line))
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

int32_t num_pages(int64_t num_tokens) {
  return static_cast<int32_t>((num_tokens + kPageSizeTokens - 1) / kPageSizeTokens);
}

// Runs a model with random tokens (different ones every step: the routed experts vary as in use).
class Runner {
 public:
  Runner(ForwardModel& model, int32_t max_sequences)
      : model_(model), logits_(static_cast<size_t>(max_sequences) * model.vocab_size()) {}

  // Whole prompt of one sequence in chunks, logits of its last token only, as the engine does it.
  void prefill(int32_t num_tokens, int32_t chunk_tokens, std::span<const int32_t> page_ids) {
    const std::vector<int32_t> token_ids = random_tokens(num_tokens);
    for (int32_t begin = 0; begin < num_tokens; begin += chunk_tokens) {
      const int32_t step_tokens = std::min(chunk_tokens, num_tokens - begin);
      BatchItem item;
      item.num_tokens = step_tokens;
      item.context_size_tokens = begin;
      item.page_ids = page_ids;
      const int32_t last = step_tokens - 1;
      Batch batch;
      batch.token_ids = std::span<const int32_t>(token_ids).subspan(begin, step_tokens);
      batch.items = {&item, 1};
      if (begin + step_tokens == num_tokens) batch.logit_token_idx = {&last, 1};
      forward(batch);
    }
  }

  // One step of `sequence_pages.size()` sequences, a token each.
  void decode(int32_t context_tokens, const std::vector<std::vector<int32_t>>& sequence_pages) {
    const auto batch_size = static_cast<int32_t>(sequence_pages.size());
    const std::vector<int32_t> token_ids = random_tokens(batch_size);
    std::vector<int32_t> rows(static_cast<size_t>(batch_size));
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<BatchItem> items(static_cast<size_t>(batch_size));
    for (int32_t sequence_idx = 0; sequence_idx < batch_size; ++sequence_idx) {
      BatchItem& item = items[static_cast<size_t>(sequence_idx)];
      item.token_begin = sequence_idx;
      item.num_tokens = 1;
      item.context_size_tokens = context_tokens;
      item.page_ids = sequence_pages[static_cast<size_t>(sequence_idx)];
    }
    forward({.token_ids = token_ids, .items = items, .logit_token_idx = rows});
  }

 private:
  void forward(const Batch& batch) {
    model_.forward(batch, {logits_.data(), static_cast<int64_t>(batch.logit_token_idx.size()),
                           model_.vocab_size()});
  }

  std::vector<int32_t> random_tokens(int32_t num_tokens) {
    std::uniform_int_distribution<int32_t> any(0, model_.vocab_size() - 1);
    std::vector<int32_t> ids(static_cast<size_t>(num_tokens));
    for (int32_t& id : ids) id = any(random_);
    return ids;
  }

  ForwardModel& model_;
  std::vector<float> logits_;
  std::mt19937 random_{1};
};

template <typename Body>
double time_s(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

PrefillRow bench_prefill(Runner& runner, const BenchOptions& options, int32_t prompt_tokens) {
  std::vector<int32_t> page_ids(static_cast<size_t>(num_pages(prompt_tokens)));
  std::iota(page_ids.begin(), page_ids.end(), 0);
  std::vector<double> times_s;
  for (int repeat_idx = 0; repeat_idx < options.num_repeats; ++repeat_idx)
    times_s.push_back(
        time_s([&] { runner.prefill(prompt_tokens, options.chunk_tokens, page_ids); }));
  return {.prompt_tokens = prompt_tokens, .median_s = quantile(times_s, 0.5)};
}

DecodeRow bench_decode(Runner& runner,
                       const ForwardModel& model,
                       const BenchOptions& options,
                       int32_t batch_size,
                       int32_t context_tokens) {
  const int32_t pages_each = num_pages(context_tokens + options.decode_tokens + 1);
  std::vector<std::vector<int32_t>> sequence_pages(static_cast<size_t>(batch_size));
  int32_t next_page = 0;
  for (auto& page_ids : sequence_pages) {
    page_ids.resize(static_cast<size_t>(pages_each));
    std::iota(page_ids.begin(), page_ids.end(), next_page);
    next_page += pages_each;
    if (context_tokens > 0) runner.prefill(context_tokens, options.chunk_tokens, page_ids);
  }
  runner.decode(context_tokens, sequence_pages);  // warm-up
  std::vector<double> times_s;
  for (int repeat_idx = 0; repeat_idx < options.num_repeats; ++repeat_idx)
    for (int32_t step_idx = 0; step_idx < options.decode_tokens; ++step_idx)
      times_s.push_back(time_s([&] { runner.decode(context_tokens + step_idx, sequence_pages); }));
  return {.batch_size = batch_size,
          .context_tokens = context_tokens,
          .p10_step_s = quantile(times_s, 0.1),
          .median_step_s = quantile(times_s, 0.5),
          .p90_step_s = quantile(times_s, 0.9),
          .reads = model.decode_reads(batch_size, context_tokens + options.decode_tokens / 2),
          .launches = model.replayed_launches()};
}

ModelLimits limits_for(const BenchOptions& options, const ModelConfig& config) {
  const int32_t most_sequences =
      *std::max_element(options.batch_sizes.begin(), options.batch_sizes.end());
  const int32_t longest_context =
      *std::max_element(options.context_tokens.begin(), options.context_tokens.end());
  const int32_t longest_prompt =
      *std::max_element(options.prompt_tokens.begin(), options.prompt_tokens.end());
  const int64_t longest = std::max(longest_prompt, longest_context + options.decode_tokens + 1);
  if (longest > config.max_position_embeddings)
    throw ConfigError(fmt::format("{} tokens of a sequence asked for, the model takes {} at most",
                                  longest, config.max_position_embeddings));
  const int64_t decode_pages =
      static_cast<int64_t>(most_sequences) * num_pages(longest_context + options.decode_tokens + 1);
  ModelLimits limits;
  limits.kv_cache_tokens =
      kPageSizeTokens * std::max<int64_t>(decode_pages, num_pages(longest_prompt));
  limits.max_batch_tokens = std::max(options.chunk_tokens, most_sequences);
  limits.max_logit_rows = most_sequences;
  limits.attention = options.model.attention;
  limits.expert_activations = options.model.expert_activations;
  limits.gpus = options.model.gpus;
  limits.gpu_expert_layers = options.model.gpu_expert_layers;
  limits.kv_host_size_bytes = 0;  // nothing keeps pages here
  limits.on_plan = [](const std::string& plan) { fmt::print(stderr, "{}", plan); };
  return limits;
}

struct BenchReport {
  std::string model;
  int32_t num_layers = 0;
  Topology topology;
  int num_threads = 0;
  double load_s = 0.0;
  double read_gb_per_s = 0.0;  // of the host's memory
  double card_gb_per_s = 0.0;  // copied within a card's memory; 0: no card
  std::vector<PrefillRow> prefill;
  std::vector<DecodeRow> decode;
  int64_t peak_memory_bytes = 0;

  // What a step would take if reading were all, over what it took.
  [[nodiscard]] double share_of_limit(const DecodeRow& row) const {
    return row.reads.seconds_at(read_gb_per_s, card_gb_per_s) / row.median_step_s;
  }
};

void print_json(const BenchReport& report, const BenchOptions& options) {
  boost::json::array prefill;
  for (const PrefillRow& row : report.prefill)
    prefill.push_back(boost::json::object{{"prompt_tokens", row.prompt_tokens},
                                          {"chunk_tokens", options.chunk_tokens},
                                          {"median_s", row.median_s},
                                          {"tokens_per_s", row.tokens_per_s()}});
  boost::json::array decode;
  for (const DecodeRow& row : report.decode) {
    boost::json::object json{{"batch", row.batch_size},
                             {"context_tokens", row.context_tokens},
                             {"p10_step_ms", row.p10_step_s * 1e3},
                             {"median_step_ms", row.median_step_s * 1e3},
                             {"p90_step_ms", row.p90_step_s * 1e3},
                             {"tokens_per_s", row.tokens_per_s()},
                             {"read_bytes_per_step", row.reads.total_bytes()},
                             {"card_read_bytes_per_step", row.reads.card_bytes}};
    if (row.reads.total_bytes() > 0) {
      json["read_gb_per_s"] = row.gb_per_s();
      json["share_of_bandwidth"] = report.share_of_limit(row);
    }
    if (row.launches.num_kernels > 0) {
      json["kernels_per_step"] = row.launches.num_kernels;
      json["kernels_per_layer"] = row.kernels_per_layer(report.num_layers);
      json["recordings_per_step"] = row.launches.num_recordings;
    }
    decode.push_back(std::move(json));
  }
  fmt::print("{}\n", boost::json::serialize(boost::json::object{
                         {"version", TANDEM_VERSION},
                         {"model", report.model},
                         {"cpu", report.topology.cpu_name},
                         {"threads", report.num_threads},
                         {"numa_nodes", static_cast<int64_t>(report.topology.nodes.size())},
                         {"load_s", report.load_s},
                         {"read_bandwidth_gb_per_s", report.read_gb_per_s},
                         {"card_copy_bandwidth_gb_per_s", report.card_gb_per_s},
                         {"repeats", options.num_repeats},
                         {"prefill", std::move(prefill)},
                         {"decode", std::move(decode)},
                         {"peak_memory_bytes", report.peak_memory_bytes}}));
}

// What the limit of a step is made of, where cards have a part in it.
void print_card_shares(const BenchReport& report) {
  for (const DecodeRow& row : report.decode) {
    const auto& [host_bytes, card_bytes] = row.reads;
    if (card_bytes == 0) continue;
    fmt::print(
        "batch {}, context {}: the limit is {:.3f} ms for {} of the cards' memory at their "
        "bandwidth, then {:.3f} ms for {} of the host's at the host's\n",
        row.batch_size, row.context_tokens,
        1e3 * DecodeReads{.card_bytes = card_bytes}.seconds_at(0.0, report.card_gb_per_s),
        format_size(card_bytes),
        1e3 * DecodeReads{.host_bytes = host_bytes}.seconds_at(report.read_gb_per_s, 0.0),
        format_size(host_bytes));
  }
}

void print_table(const BenchReport& report) {
  fmt::print("model        {}\n", report.model);
  fmt::print("machine      {}, {} threads on {} NUMA node{}\n", report.topology.cpu_name,
             report.num_threads, report.topology.nodes.size(),
             report.topology.nodes.size() == 1 ? "" : "s");
  fmt::print("bandwidth    {:.1f} GB/s read, measured now\n", report.read_gb_per_s);
  if (report.card_gb_per_s > 0)
    fmt::print("card         {:.1f} GB/s copied within its memory, measured now\n",
               report.card_gb_per_s);
  fmt::print("load         {}\n\n", format_duration(std::chrono::duration<double>(report.load_s)));
  fmt::print("{:<8} {:>14} {:>12} {:>10}\n", "prefill", "prompt tokens", "median ms", "tok/s");
  for (const PrefillRow& row : report.prefill)
    fmt::print("{:<8} {:>14} {:>12.1f} {:>10.1f}\n", "", row.prompt_tokens, row.median_s * 1e3,
               row.tokens_per_s());
  fmt::print("\n{:<8} {:>6} {:>8} {:>12} {:>17} {:>10} {:>12} {:>8} {:>9}\n", "decode", "batch",
             "context", "median ms", "p10-p90 ms", "tok/s", "read a step", "GB/s", "of limit");
  bool cached = false;
  for (const DecodeRow& row : report.decode) {
    const bool known = row.reads.total_bytes() > 0;
    cached = cached || (known && report.share_of_limit(row) > 1.05);
    fmt::print("{:<8} {:>6} {:>8} {:>12.3f} {:>17} {:>10.1f} {:>12} {:>8} {:>9}\n", "",
               row.batch_size, row.context_tokens, row.median_step_s * 1e3,
               fmt::format("{:.3f}-{:.3f}", row.p10_step_s * 1e3, row.p90_step_s * 1e3),
               row.tokens_per_s(), known ? format_size(row.reads.total_bytes()) : "unknown",
               known ? fmt::format("{:.1f}", row.gb_per_s()) : "-",
               known ? fmt::format("{:.0f} %", 100.0 * report.share_of_limit(row)) : "-");
  }
  print_card_shares(report);
  for (const DecodeRow& row : report.decode) {
    if (row.launches.num_kernels == 0) continue;
    fmt::print(
        "batch {}, context {}: {} kernels and copies a step on the cards, {:.1f} a layer, launched "
        "as {} recordings\n",
        row.batch_size, row.context_tokens, row.launches.num_kernels,
        row.kernels_per_layer(report.num_layers), row.launches.num_recordings);
  }
  if (cached)
    fmt::print(
        "(more than the limit: prefetching beats the plain loads that measure it, or the weights "
        "lie in the caches)\n");
  fmt::print("\npeak memory  {} (VmHWM)\n", format_size(report.peak_memory_bytes));
}

}  // namespace

int run_bench(const BenchOptions& options, const ModelFactory& factory) {
  const std::filesystem::path model_dir = resolve_model_dir(options.model.model_dir);
  const ModelConfig config = ModelConfig::load(model_dir);
  const ModelLimits limits = limits_for(options, config);
  BenchReport report;
  report.num_layers = config.num_hidden_layers;
  report.model = model_dir.string();
  std::unique_ptr<LoadedModel> loaded;
  {
    ProgressBar bar(stderr, "loading");
    report.load_s = time_s([&] {
      loaded = load_model(model_dir, options.model.num_threads, limits, factory,
                          [&](const Progress& p) { bar.update(p); });
    });
    bar.finish();
  }
  report.topology = loaded->topology;
  report.num_threads = loaded->pool->num_workers();

  Runner runner(*loaded->model, limits.max_logit_rows);
  runner.prefill(std::min(16, options.chunk_tokens),  // first touch of everything
                 options.chunk_tokens, std::vector<int32_t>{0});
  for (const int32_t prompt_tokens : options.prompt_tokens)
    report.prefill.push_back(bench_prefill(runner, options, prompt_tokens));
  for (const int32_t context_tokens : options.context_tokens)
    for (const int32_t batch_size : options.batch_sizes)
      report.decode.push_back(
          bench_decode(runner, *loaded->model, options, batch_size, context_tokens));
  // The peak is taken before the bandwidth buffer adds to it.
  report.peak_memory_bytes = peak_memory_bytes();
  report.read_gb_per_s =
      measure_read_bandwidth_gb_per_s(*loaded->pool, options.bandwidth_size_mib << 20, 5);
  report.card_gb_per_s = loaded->model->measure_card_gb_per_s();
  if (options.json) {
    print_json(report, options);
  } else {
    print_table(report);
  }
  return 0;
}

}  // namespace tandem::cli
