// JSON text written straight into a string: what an answer needs, without a document in between.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tandem::server {

// kWire also escapes U+0085, U+2028 and U+2029, at which line readers of some clients split an
// event. kMinimal is what Python's json.dumps(ensure_ascii=False) escapes: prompts hold that.
enum class JsonEscapes { kWire, kMinimal };

// With quotes. Bytes that are no UTF-8 become U+FFFD, so that the text is always valid.
void append_json_string(std::string& out,
                        std::string_view text,
                        JsonEscapes escapes = JsonEscapes::kWire);

// Commas are placed by the writer; nesting is the caller's business.
class JsonWriter {
 public:
  explicit JsonWriter(std::string& out) : out_(out) {}

  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);

  JsonWriter& string(std::string_view text);
  JsonWriter& integer(int64_t value);
  JsonWriter& integers(std::span<const int32_t> values);  // an array
  JsonWriter& number(double value);  // shortest form that reads back; not finite: null
  JsonWriter& boolean(bool value);
  JsonWriter& null();
  JsonWriter& raw(std::string_view json);  // one value, already JSON

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  void separate();

  std::string& out_;
  bool needs_comma_ = false;
};

}  // namespace tandem::server
