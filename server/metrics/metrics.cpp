#include "server/metrics/metrics.h"

#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

namespace tandem::server {
namespace {

using prometheus::ClientMetric;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Buckets = Histogram::BucketBoundaries;

// vLLM's, so that its dashboards show the same resolution; the first ones are finer, as a small
// model's steps are.
const Buckets kFirstTokenBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                    0.25,  0.5,   0.75, 1.0,  2.5,  5.0,  7.5,  10.0,
                                    20.0,  40.0,  80.0, 160., 640., 2560.};
const Buckets kTokenBuckets = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
                               0.1,    0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1.0,
                               2.5,    5.0,   7.5,    10.0,  20.0, 40.0,  80.0};
const Buckets kRequestBuckets = {0.01, 0.1,  0.3,   0.5,   0.8,   1.0,  1.5,  2.0,
                                 2.5,  5.0,  10.0,  15.0,  20.,   30.0, 40.0, 50.0,
                                 60.0, 120., 240.0, 480.0, 960.0, 1920.};
const Buckets kLengthBuckets = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

Histogram& add_histogram(prometheus::Registry& registry,
                         const std::string& name,
                         const std::string& help,
                         const std::string& model_name,
                         const Buckets& buckets) {
  return prometheus::BuildHistogram()
      .Name("tandem:" + name)
      .Help(help)
      .Register(registry)
      .Add({{"model_name", model_name}}, buckets);
}

prometheus::Family<prometheus::Counter>& add_counters(prometheus::Registry& registry,
                                                      const std::string& name,
                                                      const std::string& help) {
  return prometheus::BuildCounter().Name("tandem:" + name).Help(help).Register(registry);
}

MetricFamily one_value(MetricType type,
                       const std::string& name,
                       const std::string& help,
                       const std::string& model_name,
                       double value) {
  ClientMetric metric;
  metric.label = {{"model_name", model_name}};
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return {"tandem:" + name, help, type, {std::move(metric)}};
}

// One of the three is 1, as vLLM says it; level 2 is "discard_all".
MetricFamily sleep_state(const EngineStats& stats, const std::string& model_name) {
  const bool asleep = is_sleeping(stats.sleep_state);
  const bool all = asleep && stats.released.host_weights;
  const std::vector<std::pair<const char*, bool>> states = {
      {"awake", !asleep}, {"weights_offloaded", asleep && !all}, {"discard_all", all}};
  MetricFamily family{
      "tandem:engine_sleep_state", "Whether memory is given back", MetricType::Gauge, {}};
  for (const auto& [name, is_so] : states) {
    ClientMetric& metric = family.metric.emplace_back();
    metric.label = {{"model_name", model_name}, {"sleep_state", name}};
    metric.gauge.value = is_so ? 1.0 : 0.0;
  }
  return family;
}

std::vector<MetricFamily> engine_families(const EngineStats& stats, const std::string& model_name) {
  struct Row {
    MetricType type;
    const char* name;
    const char* help;
    double value;
  };
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  const double kv_usage =
      stats.kv_pages_total == 0 ? 0.0 : number(stats.kv_pages_used) / number(stats.kv_pages_total);
  const std::vector<Row> rows = {
      {MetricType::Gauge, "num_requests_running", "Sequences in the running batch",
       number(stats.num_running)},
      {MetricType::Gauge, "num_requests_waiting", "Sequences that wait for a place",
       number(stats.num_waiting)},
      {MetricType::Gauge, "kv_cache_usage_perc", "Share of the KV pages in use, 1 is all",
       kv_usage},
      {MetricType::Counter, "prefix_cache_queries_total", "Prompt tokens looked up",
       number(stats.prompt_tokens)},
      {MetricType::Counter, "prefix_cache_hits_total", "Prompt tokens whose KV was found",
       number(stats.cached_tokens)},
      {MetricType::Counter, "external_prefix_cache_hits_total",
       "Of these hits: tokens whose KV came back from host memory or disk",
       number(stats.restored_tokens)},
      {MetricType::Gauge, "kv_host_used_pages", "KV pages kept in host memory",
       number(stats.kv_host_pages_used)},
      {MetricType::Gauge, "kv_host_limit_pages", "KV pages that host memory is kept for",
       number(stats.kv_host_pages_total)},
      {MetricType::Gauge, "kv_disk_used_bytes", "KV pages in the folder on disk",
       number(stats.kv_disk_size_bytes)},
      {MetricType::Gauge, "kv_disk_limit_bytes", "What that folder may hold, 0 without one",
       number(stats.kv_disk_limit_bytes)},
      {MetricType::Counter, "kv_disk_pages_read_total", "KV pages read from the folder",
       number(stats.kv_disk_pages_read)},
      {MetricType::Counter, "kv_disk_pages_written_total", "KV pages written to the folder",
       number(stats.kv_disk_pages_written)},
      {MetricType::Counter, "kv_disk_failures_total",
       "KV pages that the folder did not take or give back whole", number(stats.kv_disk_failures)},
      {MetricType::Counter, "prompt_tokens_total", "Prompt tokens of admitted requests",
       number(stats.prompt_tokens)},
      {MetricType::Counter, "generation_tokens_total", "Tokens generated",
       number(stats.generated_tokens)},
      {MetricType::Counter, "num_steps_total", "Steps of the engine", number(stats.num_steps)},
  };
  std::vector<MetricFamily> families;
  for (const Row& row : rows) {
    families.push_back(one_value(row.type, row.name, row.help, model_name, row.value));
  }
  families.push_back(sleep_state(stats, model_name));
  return families;
}

}  // namespace

Metrics::Metrics(const std::string& model_name)
    : model_name_(model_name),
      responses_(add_counters(registry_, "http_responses_total", "Responses by route and status")),
      finished_(add_counters(registry_, "request_success_total", "Ended requests by reason")),
      stop_(finished_.Add({{"model_name", model_name}, {"finished_reason", "stop"}})),
      length_(finished_.Add({{"model_name", model_name}, {"finished_reason", "length"}})),
      repetition_(finished_.Add({{"model_name", model_name}, {"finished_reason", "repetition"}})),
      abort_(finished_.Add({{"model_name", model_name}, {"finished_reason", "abort"}})),
      error_(finished_.Add({{"model_name", model_name}, {"finished_reason", "error"}})),
      invalid_calls_(add_counters(registry_,
                                  "invalid_tool_calls_total",
                                  "Calls that do not satisfy their schema")
                         .Add({{"model_name", model_name}})),
      dropped_log_lines_(add_counters(registry_,
                                      "request_log_dropped_total",
                                      "Lines of the request log that the disk did not take")
                             .Add({{"model_name", model_name}})),
      dropped_spans_(
          add_counters(registry_, "spans_dropped_total", "Spans that the collector did not take")
              .Add({{"model_name", model_name}})),
      time_to_first_token_(add_histogram(registry_,
                                         "time_to_first_token_seconds",
                                         "From submission to the first token",
                                         model_name,
                                         kFirstTokenBuckets)),
      inter_token_latency_(add_histogram(registry_,
                                         "inter_token_latency_seconds",
                                         "Between two tokens of a request",
                                         model_name,
                                         kTokenBuckets)),
      e2e_latency_(add_histogram(registry_,
                                 "e2e_request_latency_seconds",
                                 "From submission to the end",
                                 model_name,
                                 kRequestBuckets)),
      queue_time_(add_histogram(registry_,
                                "request_queue_time_seconds",
                                "From submission to the first step",
                                model_name,
                                kRequestBuckets)),
      request_prompt_tokens_(add_histogram(registry_,
                                           "request_prompt_tokens",
                                           "Prompt tokens of a request",
                                           model_name,
                                           kLengthBuckets)),
      request_generation_tokens_(add_histogram(registry_,
                                               "request_generation_tokens",
                                               "Tokens generated for a request",
                                               model_name,
                                               kLengthBuckets)) {}

void Metrics::count_response(std::string_view route, int status) {
  responses_
      .Add({{"model_name", model_name_},
            {"route", std::string(route)},
            {"status", std::to_string(status)}})
      .Increment();
}

void Metrics::count_invalid_calls(int64_t num_calls) {
  invalid_calls_.Increment(static_cast<double>(num_calls));
}

void Metrics::count_dropped_log_line() { dropped_log_lines_.Increment(); }
void Metrics::count_dropped_spans(int64_t num_spans) {
  dropped_spans_.Increment(static_cast<double>(num_spans));
}

std::string Metrics::text(const std::optional<EngineStats>& engine) const {
  std::vector<MetricFamily> families = registry_.Collect();
  if (engine) {
    for (MetricFamily& family : engine_families(*engine, model_name_)) {
      families.push_back(std::move(family));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

RequestMetrics::RequestMetrics(std::shared_ptr<Metrics> metrics)
    : metrics_(std::move(metrics)), begin_(Clock::now()), last_token_(begin_) {}

void RequestMetrics::on_event(const TokenEvent& event) {
  const auto now = Clock::now();
  if (event.kind == TokenEvent::Kind::kFinished) return on_finished(event, now);
  const double elapsed_s = std::chrono::duration<double>(now - last_token_).count();
  (std::exchange(has_token_, true) ? metrics_->inter_token_latency_
                                   : metrics_->time_to_first_token_)
      .Observe(elapsed_s);
  last_token_ = now;
}

void RequestMetrics::on_finished(const TokenEvent& event, Clock::time_point now) {
  switch (event.finish_reason) {
    case FinishReason::kStop:
      metrics_->stop_.Increment();
      break;
    case FinishReason::kLength:
      metrics_->length_.Increment();
      break;
    case FinishReason::kRepetition:
      metrics_->repetition_.Increment();
      break;
    case FinishReason::kAborted:
      (complete_.load(std::memory_order_relaxed) ? metrics_->stop_ : metrics_->abort_).Increment();
      break;
    case FinishReason::kError:
      metrics_->error_.Increment();
      break;
  }
  metrics_->e2e_latency_.Observe(std::chrono::duration<double>(now - begin_).count());
  metrics_->queue_time_.Observe(std::chrono::duration<double>(event.queue_wait).count());
  metrics_->request_prompt_tokens_.Observe(event.prompt_tokens);
  metrics_->request_generation_tokens_.Observe(event.completion_tokens);
}

}  // namespace tandem::server
