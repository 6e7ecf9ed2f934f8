// Server-sent events as bytes.
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

inline constexpr std::string_view kSseData = "data: ";
inline constexpr std::string_view kSseKeepAlive = ": keep-alive\n\n";  // a comment: clients skip it

// What Anthropic's streams send instead; its clients skip it anywhere in a stream.
inline constexpr std::string_view kSsePing = "event: ping\ndata: {\"type\":\"ping\"}\n\n";

// `data` has no line breaks, as JSON has none.
inline void append_sse_data(std::string& out, std::string_view data) {
  out += kSseData;
  out += data;
  out += "\n\n";
}

// With a name for clients that dispatch on it.
inline void append_sse_event(std::string& out, std::string_view event, std::string_view data) {
  out += "event: ";
  out += event;
  out += '\n';
  append_sse_data(out, data);
}

}  // namespace tandem::server
