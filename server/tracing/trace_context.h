// Which trace a request is part of (W3C Trace Context, "traceparent").
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

struct TraceContext {
  std::string trace_id;        // 32 hexadecimal digits
  std::string span_id;         // 16, of this request's span
  std::string parent_span_id;  // 16, or "" for a trace of its own
  bool sampled = true;
};

// Of a request with this header; "" or one that is not as the standard says begins a new trace.
TraceContext trace_context_of(std::string_view traceparent);

}  // namespace tandem::server
