// The tools that real clients declare (shared/serving/captures): all of them can be called.
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "runtime/grammar/answer_grammar.h"
#include "tests/runtime/grammar/grammar_fixture.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

// The schemas of a tool, whatever the dialect: input_schema, parameters, function.parameters.
void collect(const json::value& tool, std::set<std::string>& schemas) {
  const json::object* object = tool.if_object();
  if (object == nullptr) return;
  for (const char* key : {"input_schema", "parameters"}) {
    const json::value* schema = object->if_contains(key);
    if (schema != nullptr && schema->is_object()) schemas.insert(json::serialize(*schema));
  }
  if (const json::value* function = object->if_contains("function")) collect(*function, schemas);
  const json::value* nested = object->if_contains("tools");
  if (nested == nullptr || !nested->is_array()) return;
  for (const json::value& inner : nested->get_array()) collect(inner, schemas);
}

TEST_CASE("every tool that a client was seen to declare gets a grammar", "[grammar]") {
  const char* shared = std::getenv("TANDEM_SHARED_DIR");
  const std::filesystem::path dir =
      (shared != nullptr ? std::filesystem::path(shared)
                         : std::filesystem::path(TANDEM_SOURCE_DIR) / ".." / "shared") /
      "serving" / "captures";
  std::error_code ignored;
  if (!std::filesystem::exists(dir, ignored))
    SKIP("no serving/captures in the shared folder (TANDEM_SHARED_DIR)");
  std::set<std::string> schemas;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    std::ifstream file(entry.path());
    const json::value requests =
        json::parse(std::string(std::istreambuf_iterator<char>(file), {}), {}, {.max_depth = 128});
    for (const json::value& request : requests.as_array()) {
      const json::value* body = request.as_object().if_contains("body");
      if (body != nullptr && body->is_object()) collect(*body, schemas);
    }
  }
  REQUIRE(schemas.size() > 20);
  GrammarCompiler compiler(byte_tokenizer(), kByteVocabSize);
  for (const std::string& schema : schemas) {
    INFO(schema);
    const auto grammar = compiler.compile({.tools = {{"f", schema}}});
    REQUIRE(grammar.ok());
    CHECK((*grammar)->unenforced().empty());
  }
}

}  // namespace
}  // namespace tandem::tests
