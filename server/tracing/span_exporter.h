// Spans to a collector: OTLP over HTTP, in JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace tandem::server {

class SpanExporter {
 public:
  struct Options {
    // http://[USER:PASSWORD@]HOST[:PORT][/PATH][?QUERY]; without a path /v1/traces
    std::string url;
    std::string service_name;                 // as the collector shows it
    std::function<void(int64_t)> on_dropped;  // spans that were lost; any thread
  };

  // Throws ConfigError: a URL that is none, or not of http. Starts the thread; nothing is connected
  // before the first span.
  explicit SpanExporter(Options options);
  ~SpanExporter();  // gives what waits one more try of two seconds
  SpanExporter(const SpanExporter&) = delete;
  SpanExporter& operator=(const SpanExporter&) = delete;

  // A span as OTLP's JSON. Thread-safe, never waits.
  void send(std::string span_json);

  static constexpr size_t kMaxWaitingSpans = 4096;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
