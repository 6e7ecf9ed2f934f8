#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <catch2/catch_test_macros.hpp>
#include <limits>
#include <random>
#include <string>

#include "server/chat/json_fields.h"
#include "server/chat/json_repair.h"
#include "server/chat/json_text.h"
#include "server/http/json_writer.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

std::string json_quoted(std::string_view text, JsonEscapes escapes = JsonEscapes::kWire) {
  std::string out;
  append_json_string(out, text, escapes);
  return out;
}

TEST_CASE("a written string reads back as it was", "[server][json]") {
  std::string all;
  for (int code = 0; code < 0x80; ++code) all.push_back(static_cast<char>(code));
  all += "\u00e9\u4e2d\U0001f600\u0085\u2028\u2029\uffff";
  for (const JsonEscapes escapes : {JsonEscapes::kWire, JsonEscapes::kMinimal}) {
    const json::value value = json::parse(json_quoted(all, escapes));
    CHECK(std::string(value.as_string()) == all);
  }
}

TEST_CASE("no written string holds what a line reader splits at", "[server][json]") {
  const std::string text = json_quoted("a\nb\rc\u0085d\u2028e\u2029f");
  CHECK(text == R"("a\nb\rc\u0085d\u2028e\u2029f")");
  CHECK(json_quoted("\u2028", JsonEscapes::kMinimal) == "\"\u2028\"");
}

TEST_CASE("bytes that are no UTF-8 become U+FFFD, each alone", "[server][json]") {
  CHECK(json_quoted("a\xff"
                    "b") == "\"a\uFFFDb\"");
  CHECK(json_quoted("\xe4\xb8") == "\"\uFFFD\uFFFD\"");            // cut off
  CHECK(json_quoted("\xc0\xaf") == "\"\uFFFD\uFFFD\"");            // overlong
  CHECK(json_quoted("\xed\xa0\x80") == "\"\uFFFD\uFFFD\uFFFD\"");  // a surrogate
  CHECK(json_quoted("\xf4\x90\x80\x80") == "\"\uFFFD\uFFFD\uFFFD\uFFFD\"");
}

TEST_CASE("random bytes always give valid JSON", "[server][json]") {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes(random() % 24, '\0');
    for (char& byte : bytes)
      byte = static_cast<char>(random() % 4 == 0 ? random() : random() | 0x80);
    boost::system::error_code code;
    static_cast<void>(json::parse(json_quoted(bytes), code));
    REQUIRE_FALSE(code);
  }
}

TEST_CASE("the writer places commas", "[server][json]") {
  std::string out;
  JsonWriter writer(out);
  writer.begin_object().key("a").integer(-1).key("b").begin_array();
  writer.number(0.5).boolean(true).null().string("x").raw("{}").end_array();
  writer.key("c").begin_object().end_object().key("d").begin_array().end_array();
  writer.key("e").number(std::numeric_limits<double>::infinity()).end_object();
  CHECK(out == R"({"a":-1,"b":[0.5,true,null,"x",{}],"c":{},"d":[],"e":null})");
}

TEST_CASE("halves of characters become U+FFFD, and nothing else changes", "[server][json]") {
  const auto repaired = [](std::string_view text) {
    return repair_json_text(text).value_or("(as it was)");
  };
  CHECK(repaired(R"({"a":"\\ud83d"})") == "(as it was)");  // a backslash and the text ud83d
  CHECK(repaired(R"("\ud83d\ude00 \n \\ \u00e9 \")") == "(as it was)");
  CHECK(repaired(R"("\ud83d")") == R"("\ufffd")");
  CHECK(repaired(R"("\ude00\ud83d")") == R"("\ufffd\ufffd")");
  CHECK(repaired(R"("\ud83d\ud83d\ude00")") == R"("\ufffd\ud83d\ude00")");
  CHECK(repaired(R"("\\\ud83dx")") == R"("\\\ufffdx")");
  CHECK(repaired("\"\xff\xe2\x82\"") == "\"\xef\xbf\xbd\xef\xbf\xbd\"");
  CHECK(repaired(R"(\u12)") == "(as it was)");
  CHECK(repaired("\\") == "(as it was)");
}

TEST_CASE("a body that would take far more memory than text is a 413", "[server][json]") {
  for (const char* element : {"[],", "[0],", R"({"":0},)"}) {
    std::string body = R"({"messages":[)";
    for (int idx = 0; idx < 4'000'000; ++idx) body += element;
    const auto refused = parse_json_object(body + "[]]}");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().status == 413);
    CHECK(refused.error().message ==
          "body: expected JSON that takes at most 128 MiB once parsed, got more");
  }
  CHECK(parse_json_object(R"({"prompt":")" + std::string(64 << 20, 'a') + R"("})"));
  std::string ids = R"({"prompt":[1)";
  for (int idx = 0; idx < 1'000'000; ++idx) ids += ",163839";
  CHECK(parse_json_object(ids + "]}"));
}

TEST_CASE("values are written as Python writes them", "[server][json]") {
  const auto python = [](std::string_view text) {
    return json_text(json::parse(json::string_view(text.data(), text.size())));
  };
  CHECK(python(R"({"city":"Beijing","n":[1,2.5,true,null]})") ==
        R"({"city": "Beijing", "n": [1, 2.5, true, null]})");
  CHECK(python("{}") == "{}");
  CHECK(python("[]") == "[]");
  CHECK(python("\"\u5317\u4eac\\u0007\\/\"") == "\"\u5317\u4eac\\u0007/\"");
  CHECK(python("9007199254740993") == "9007199254740993");
  CHECK(python("18446744073709551615") == "18446744073709551615");
  CHECK(python("1.0") == "1.0");
  CHECK(python("1e5") == "100000.0");
  CHECK(python("1e16") == "1e+16");
  CHECK(python("0.0001") == "0.0001");
  CHECK(python("0.00001") == "1e-05");
  CHECK(python("0.1") == "0.1");
  CHECK(python("-0.0") == "-0.0");
  CHECK(json_text(json::parse(R"({"b":[1,2],"a":{}})"), kCompactJson) == R"({"b":[1,2],"a":{}})");
}

}  // namespace
}  // namespace tandem::server
