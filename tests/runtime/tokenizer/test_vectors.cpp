// The published ids of the K2 family's vocabulary (third-party data: optional, never committed).
#include <boost/json.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/runtime/tokenizer/vocabulary_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

std::vector<int32_t> ids_of(const json::value& value) {
  return json::value_to<std::vector<int32_t>>(value);
}

std::string text_of(const json::value& value) { return json::value_to<std::string>(value); }

std::string repeated(std::string_view text, size_t num_times) {
  std::string result;
  for (size_t idx = 0; idx < num_times; ++idx) result += text;
  return result;
}

#define REQUIRE_SHARED_VECTORS()                                                           \
  const auto vectors_path = shared_file("model/tokenizer_vectors.json");                   \
  if (real_tokenizer() == nullptr || !vectors_path.has_value()) {                          \
    SKIP("needs model/tiktoken.model and tokenizer_vectors.json (set TANDEM_SHARED_DIR)"); \
  }                                                                                        \
  const Tokenizer& tokenizer = *real_tokenizer();                                          \
  const json::value vectors = json::parse(read_text_file(*vectors_path))

TEST_CASE("every published vector gets its ids and decodes back", "[tokenizer]") {
  REQUIRE_SHARED_VECTORS();
  int num_vectors = 0;
  for (const char* group : {"reference", "extra"}) {
    for (const json::value& vector : vectors.at(group).as_array()) {
      const std::string text = text_of(vector.at("text"));
      INFO(group << ": " << text);
      const std::vector<int32_t> ids = ids_of(vector.at("ids"));
      CHECK(tokenizer.encode(text, Tokenizer::Specials::kAsTokens) == ids);
      CHECK(tokenizer.decode(ids) == text);
      if (const json::value* plain = vector.as_object().if_contains("ids_special_disabled")) {
        CHECK(tokenizer.encode(text, Tokenizer::Specials::kAsText) == ids_of(*plain));
      }
      ++num_vectors;
    }
  }
  CHECK(num_vectors >= 70);
}

TEST_CASE("long texts are cut where the checkpoint's tokenizer cuts them", "[tokenizer]") {
  REQUIRE_SHARED_VECTORS();
  const std::vector<std::pair<std::string, std::string>> texts = {
      {"'1' * 25001", std::string(25001, '1')},
      {"'hello ' * 66667 (400,002 chars)", repeated("hello ", 66667)}};
  REQUIRE(vectors.at("long").as_object().size() == texts.size());
  for (const auto& [name, text] : texts) {
    INFO(name);
    const json::value& expected = vectors.at("long").at(name);
    const std::vector<int32_t> ids = tokenizer.encode(text, Tokenizer::Specials::kAsTokens);
    CHECK(std::ssize(ids) == expected.at("n").as_int64());
    CHECK(sha256_hex(python_list(ids)) == text_of(expected.at("sha256_of_python_str_list")));
    CHECK(tokenizer.decode(ids) == text);
  }
}

TEST_CASE("the real vocabulary has its special tokens at their ids", "[tokenizer]") {
  REQUIRE_SHARED_VECTORS();
  const SpecialTokens& ids = tokenizer.specials();
  CHECK(tokenizer.num_base_tokens() == 163584);
  CHECK(tokenizer.vocab_size() == 163840);
  CHECK(ids.bos == 163584);
  CHECK(ids.eos == 163585);
  CHECK(ids.im_end == 163586);
  CHECK(ids.im_user == 163587);
  CHECK(ids.im_assistant == 163588);
  CHECK(ids.eot == 163593);
  CHECK(ids.im_system == 163594);
  CHECK(ids.tool_calls_section_begin == 163595);
  CHECK(ids.tool_calls_section_end == 163596);
  CHECK(ids.tool_call_begin == 163597);
  CHECK(ids.tool_call_argument_begin == 163598);
  CHECK(ids.tool_call_end == 163599);
  CHECK(ids.im_middle == 163601);
  CHECK(ids.think_begin == 163606);
  CHECK(ids.think_end == 163607);
  CHECK(ids.unk == 163838);
  CHECK(ids.pad == 163839);
  CHECK(tokenizer.token_bytes(163589) == "<|reserved_token_163589|>");
}

TEST_CASE("long runs without a break are encoded in linear time", "[tokenizer]") {
  REQUIRE_SHARED_VECTORS();
  // The longest pieces there are: 25,000 characters. A quadratic merge would take minutes for all.
  for (const std::string_view unit : {"a", "A", "ab", "Ab", "あ", "字", "한", " ", "\n", " \n", "!",
                                      "é", "́", "9", "\xF0\x9F\x98\x80"}) {
    const std::string text = repeated(unit, 100'000 / unit.size());
    INFO("unit " << unit);
    const std::vector<int32_t> ids = tokenizer.encode(text, Tokenizer::Specials::kAsText);
    CHECK(tokenizer.decode(ids) == text);
  }
}

}  // namespace
}  // namespace tandem::tests
