#include "runtime/tokenizer/tokenizer.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <fstream>
#include <limits>
#include <random>
#include <thread>

#include <unistd.h>

#include "runtime/base/errors.h"
#include "runtime/tokenizer/byte_pair_encoder.h"
#include "tests/runtime/tokenizer/vocabulary_fixture.h"

namespace tandem::tests {
namespace {

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using Ids = std::vector<int32_t>;
constexpr auto kAsText = Tokenizer::Specials::kAsText;
constexpr auto kAsTokens = Tokenizer::Specials::kAsTokens;

// Spec §4.3 word for word: a scan over all adjacent pairs for every merge.
Ids naive_bpe(std::string_view piece, const std::vector<std::string>& tokens) {
  const auto rank_of = [&](const std::string& bytes) {
    for (size_t rank = 0; rank < tokens.size(); ++rank) {
      if (tokens[rank] == bytes) return static_cast<int32_t>(rank);
    }
    return std::numeric_limits<int32_t>::max();
  };
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  if (const int32_t rank = rank_of(std::string(piece)); rank != kNone) return {rank};
  std::vector<std::string> parts;
  for (const char byte : piece) parts.emplace_back(1, byte);
  while (true) {
    int32_t best_rank = kNone;
    size_t best_idx = 0;
    for (size_t idx = 0; idx + 1 < parts.size(); ++idx) {
      const int32_t rank = rank_of(parts[idx] + parts[idx + 1]);
      if (rank < best_rank) {
        best_rank = rank;
        best_idx = idx;
      }
    }
    if (best_rank == kNone) break;
    parts[best_idx] += parts[best_idx + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best_idx) + 1);
  }
  Ids ids;
  for (const std::string& part : parts) ids.push_back(rank_of(part));
  return ids;
}

// 256 bytes, then concatenations of random tokens over a small alphabet, in random order of rank.
std::vector<std::string> random_vocabulary(std::mt19937& random, size_t num_merges) {
  std::vector<std::string> merges = {"a", "b", "c"};
  while (merges.size() < num_merges + 3) {
    std::string merge = merges[random() % merges.size()] + merges[random() % merges.size()];
    if (merge.size() > 12 || std::find(merges.begin(), merges.end(), merge) != merges.end()) {
      continue;
    }
    merges.push_back(std::move(merge));
  }
  merges.erase(merges.begin(), merges.begin() + 3);
  std::shuffle(merges.begin(), merges.end(), random);
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.insert(tokens.end(), merges.begin(), merges.end());
  return tokens;
}

TEST_CASE("merging equals the naive algorithm for every piece length", "[tokenizer]") {
  // 1..150 spans the scanned and the heap version (from 129 bytes on); the ranks are shuffled, so
  // that merges undo and overtake one another.
  std::mt19937 random(3);
  for (const size_t num_merges : {0, 1, 4, 12, 40}) {
    const std::vector<std::string> tokens = random_vocabulary(random, num_merges);
    const BytePairEncoder encoder(tokens);
    for (size_t size = 1; size <= 150; ++size) {
      std::string piece;
      while (piece.size() < size) piece += static_cast<char>('a' + random() % 3);
      Ids ids;
      encoder.encode_piece(piece, ids);
      if (ids != naive_bpe(piece, tokens)) FAIL(num_merges << " merges, piece " << piece);
    }
  }
}

TEST_CASE("equal ranks merge from the left in long pieces too", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer({"aa"});
  for (const size_t size : {3, 128, 129, 1001}) {
    Ids expected(size / 2, 256);
    if (size % 2 == 1) expected.push_back('a');
    CHECK(tokenizer.encode(std::string(size, 'a'), kAsText) == expected);
  }
}

TEST_CASE("specials are tokens only when asked for", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer();
  const SpecialTokens& ids = tokenizer.specials();
  CHECK(tokenizer.encode("a<|im_end|>b", kAsTokens) == Ids{'a', ids.im_end, 'b'});
  const std::string marker = "<|im_end|>";
  CHECK(tokenizer.encode(marker, kAsText) == Ids(marker.begin(), marker.end()));
  // Leftmost, whole, and exact in case.
  CHECK(tokenizer.encode("<<think>", kAsTokens) == Ids{'<', ids.think_begin});
  CHECK(tokenizer.encode("<think></think>", kAsTokens) == Ids{ids.think_begin, ids.think_end});
  CHECK(tokenizer.encode("<THINK>", kAsTokens).size() == 7);
  CHECK(tokenizer.encode("[BOS][EOS]", kAsTokens) == Ids{ids.bos, ids.eos});
  CHECK(tokenizer.encode("<|reserved_token_261|>", kAsTokens) == Ids{261});
  CHECK(tokenizer.decode(Ids{'a', ids.im_end, ids.think_begin, 'b'}) == "a<|im_end|><think>b");
  CHECK(tokenizer.decode(Ids{'a', ids.im_end, ids.think_begin, 'b'}, true) == "a<think>b");
  CHECK(tokenizer.is_special(ids.think_begin));
  CHECK_FALSE(tokenizer.is_skipped(ids.think_begin));
  CHECK(tokenizer.is_skipped(ids.im_end));
  CHECK_FALSE(tokenizer.is_special('a'));
}

TEST_CASE("ids outside the vocabulary have no bytes", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer();
  for (const int32_t id : {-1, tokenizer.vocab_size(), std::numeric_limits<int32_t>::max(),
                           std::numeric_limits<int32_t>::min()}) {
    CHECK(tokenizer.token_bytes(id).empty());
    CHECK_FALSE(tokenizer.is_special(id));
    CHECK_FALSE(tokenizer.is_skipped(id));
  }
  CHECK(tokenizer.decode(Ids{-5, 'x', 1 << 30}) == "x");
}

TEST_CASE("invalid UTF-8 is read as U+FFFD", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer();
  CHECK(tokenizer.encode("a\xFF\xE4\xB8", kAsText) == tokenizer.encode("a\uFFFD\uFFFD", kAsText));
  CHECK(tokenizer.decode(Ids{0xE4, 0xB8}) == "\uFFFD");
  CHECK(tokenizer.decode(Ids{0xE4, 0xB8, 0xAD}) == "中");
}

TEST_CASE("runs are cut before their 25,001st character and texts every 400,000", "[tokenizer]") {
  // "aa" merges only inside one part, so a cut shows as a single 'a' on each side of it.
  const Tokenizer tokenizer = small_tokenizer({"aa", "\x1C\x1C", "  "});
  const auto num_ids = [&](const std::string& text) {
    return tokenizer.encode(text, kAsText).size();
  };
  CHECK(num_ids(std::string(25000, 'a')) == 12500);
  CHECK(num_ids(std::string(25001, 'a')) == 12501);
  CHECK(num_ids("a " + std::string(24999, 'a') + "aa") == 2 + 12500 + 1);  // counted from the space
  CHECK(num_ids(std::string(50002, 'a')) == 25001);
  // U+001C is white space to str.isspace though not to \s: it breaks the run.
  std::string broken = std::string(12501, 'a') + "\x1C" + std::string(12501, 'a');
  CHECK(num_ids(broken) == 6251 + 1 + 6251);
  // 399,999 characters of 'a ' pairs, then "aa" across the 400,000 boundary.
  std::string text;
  for (int idx = 0; idx < 199'999; ++idx) text += "! ";
  text += "!aa";  // characters 399,998 .. 400,000
  CHECK(num_ids(text) == 399'998 + 1 + 2);
  text.erase(text.size() - 3, 1);  // one earlier: both fit
  CHECK(num_ids(text) == 399'998 + 1);
  // A special across that boundary is not recognised, one before it is.
  text.resize(399'998);
  CHECK(tokenizer.encode(text + "<think>", kAsTokens).size() == 399'998 + 7);
  text.resize(399'993);
  CHECK(tokenizer.encode(text + "<think>", kAsTokens).size() == 399'993 + 1);
}

TEST_CASE("one tokenizer serves many threads", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer({"ab", "abab"});
  std::string text;
  for (int idx = 0; idx < 500; ++idx) text += "abab Ab 字 12345 !\n";
  const Ids expected = tokenizer.encode(text, kAsText);
  std::vector<int> num_wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& wrong : num_wrong) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) wrong += tokenizer.encode(text, kAsText) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(num_wrong == std::vector<int>(4, 0));
}

// --- loading ----------------------------------------------------------------------------------

void check_load_error(const std::string& tiktoken_model,
                      const std::string& config,
                      const std::string& expected,
                      int32_t vocab_size = 512) {
  INFO("expected: " << expected);
  CHECK_THROWS_MATCHES(Tokenizer::parse(tiktoken_model, config, vocab_size, "dir"), LoadError,
                       MessageMatches(ContainsSubstring(expected)));
}

TEST_CASE("a bad line of tiktoken.model is named", "[tokenizer]") {
  const std::string good = tiktoken_lines({});
  check_load_error("", "", "dir/tiktoken.model: expected all 256 single bytes among the tokens");
  check_load_error(good + "YWE=\n", "", "tiktoken.model:257: expected `base64 rank`");
  check_load_error(good + "YW*= 256\n", "", "tiktoken.model:257: expected base64");
  check_load_error(good + "YWE 256\n", "", "tiktoken.model:257: expected base64");
  check_load_error(good + "Y=E= 256\n", "", "tiktoken.model:257: expected base64");
  check_load_error(good + " 256\n", "", "tiktoken.model:257: expected base64");
  check_load_error(good + "YWE= 257\n", "", "tiktoken.model:257: expected rank 256, found `257`");
  check_load_error(good + "YWE= -1\n", "", "expected rank 256, found `-1`");
  check_load_error(good + "YWE= 99999999999999999999999\n", "", "expected rank 256");
  check_load_error(good + "YWE= \n", "", "expected rank 256, found ``");
  check_load_error(good + "YQ== 256\n", "", "tiktoken.model:257: this token's bytes have a lower");
  check_load_error(good.substr(0, good.size() / 2), "", "tiktoken.model");
  check_load_error(good, "", "vocab_size 100 is less than the 256 tokens", 100);
}

TEST_CASE("a bad tokenizer_config.json is named by its field", "[tokenizer]") {
  const std::string good = tiktoken_lines({});
  const auto decoder = [](const std::string& entries) {
    return R"({"added_tokens_decoder": {)" + entries + "}}";
  };
  check_load_error(good, "{", "dir/tokenizer_config.json: expected JSON");
  check_load_error(good, "[]", "expected a JSON object");
  check_load_error(good, R"({"added_tokens_decoder": 3})",
                   "added_tokens_decoder: expected an object");
  check_load_error(good, decoder(R"("512": {"content": "x"})"), "expected an id from 256");
  check_load_error(good, decoder(R"("255": {"content": "x"})"), R"(added_tokens_decoder["255"])");
  check_load_error(good, decoder(R"("2x": {"content": "x"})"), "expected an id from 256");
  check_load_error(good, decoder(R"("300": 7)"), R"(["300"].content: expected a string)");
  check_load_error(good, decoder(R"("300": {"content": ""})"), "that is not empty");
  check_load_error(good, decoder(R"("300": {"content": "x", "special": 1})"), ".special");
  check_load_error(good, decoder(R"("256": {"content": "x"}, "301": {"content": "x"})"),
                   "`x` names both 256 and 301");
  check_load_error(good, decoder(R"("257": {"content": "x"})"), "first id to be 256");
}

TEST_CASE("names come from tokenizer_config.json where it has any", "[tokenizer]") {
  const std::string config = R"({
    "added_tokens_decoder": {
      "256": {"content": "<s>", "special": true},
      "258": {"content": "<think>", "special": false},
      "259": {"content": "<|im_end|>"}},
    "bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"})";
  const Tokenizer tokenizer = Tokenizer::parse(tiktoken_lines({}), config, 270, "dir");
  CHECK(tokenizer.vocab_size() == 270);
  CHECK(tokenizer.specials().bos == 256);
  CHECK(tokenizer.specials().eos == 259);
  CHECK(tokenizer.specials().think_begin == 258);
  CHECK(tokenizer.specials().think_end == -1);  // the table is not mixed in
  CHECK(tokenizer.specials().pad == -1);
  CHECK(tokenizer.token_bytes(257) == "<|reserved_token_257|>");
  CHECK(tokenizer.is_skipped(257));
  CHECK(tokenizer.is_skipped(256));
  CHECK_FALSE(tokenizer.is_skipped(258));
  CHECK_FALSE(tokenizer.is_skipped(259));  // absent is false
  CHECK(tokenizer.find_special("<|im_end|>") == 259);
  CHECK(tokenizer.find_special("<|im_user|>") == -1);
}

TEST_CASE("without names the table is laid behind the BPE tokens", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer({"ab"});
  CHECK(tokenizer.specials().bos == 257);
  CHECK(tokenizer.specials().im_end == 259);
  CHECK(tokenizer.specials().think_end == 257 + 23);
  CHECK(tokenizer.specials().pad == 257 + 255);
  CHECK(tokenizer.token_bytes(257 + 5) == "<|reserved_token_262|>");
  // A block too small for a name leaves it out.
  const Tokenizer cut = Tokenizer::parse(tiktoken_lines({}), "{}", 256 + 20, "dir");
  CHECK(cut.specials().tool_call_end == 256 + 15);
  CHECK(cut.specials().think_begin == -1);
}

TEST_CASE("a folder is read from disk, and a missing file named", "[tokenizer]") {
  const std::filesystem::path dir =
      std::filesystem::temp_directory_path() / ("tandem_tokenizer_" + std::to_string(::getpid()));
  std::filesystem::create_directories(dir);
  CHECK_THROWS_MATCHES(Tokenizer::load(dir, 512), LoadError,
                       MessageMatches(ContainsSubstring((dir / "tiktoken.model").string())));
  std::string lines = tiktoken_lines({"ab"});
  lines.pop_back();  // no final line feed
  std::ofstream(dir / "tiktoken.model", std::ios::binary) << lines;
  CHECK(Tokenizer::load(dir, 513).encode("ab", kAsText) == Ids{256});
  std::ofstream(dir / "tokenizer_config.json")
      << R"({"added_tokens_decoder": {"257": {"content": "<x>"}}})";
  CHECK(Tokenizer::load(dir, 513).encode("<x>", kAsTokens) == Ids{257});
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace tandem::tests
