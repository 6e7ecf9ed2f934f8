// Tokenizer speed on one core, in MB of UTF-8 a second: encoding with specials off (what a message
// costs) and streaming decoding. The bound that matters is the network's, so none is printed.
//   bench_tokenizer MODEL_DIR [FILE...]     (MODEL_DIR has tiktoken.model; FILEs replace the
//   samples)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem {
namespace {

constexpr size_t kSampleSizeBytes = 1 << 20;
constexpr int kNumRounds = 9;
constexpr int32_t kVocabSize = 163840;

struct Sample {
  std::string name;
  std::string text;
};

const std::vector<std::string> kEnglish = {
    "The keeper of the lighthouse had counted the ships every evening for thirty-one years. ",
    "Nobody remembered why the ledger was kept, but it didn't occur to him to stop. ",
    "\"You'll want a lantern,\" she said, \"because the path down isn't what it used to be.\"\n",
    "Measured against last year's results, throughput improved by 14.7% while costs fell. ",
    "In 1887 the railway reached the valley, and within a decade the mill employed 2,400 people. ",
    "It is unclear whether these observations generalise; further experiments are under way.\n\n",
    "He turned the page, frowned, and read the sentence again: it still made no sense. ",
    "Most of the committee's recommendations (see Appendix C) were adopted without amendment. "};

const std::vector<std::string> kCode = {
    "for (int layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {\n",
    "  if (auto entry = cache_.find(key); entry != cache_.end()) return entry->second;\n",
    "    self.weight = nn.Parameter(torch.empty(out_features, in_features))\n",
    "def parse_args(argv=None):\n    parser = argparse.ArgumentParser(description=__doc__)\n",
    "  }\n\n  // Rows are padded to a multiple of 64 so that loads stay aligned.\n",
    "const response = await fetch(`${baseUrl}/v1/models`, { headers: { \"X-Key\": apiKey } });\n",
    "#include <vector>\n#include \"runtime/base/check.h\"\n\nnamespace tandem {\n",
    "        raise ValueError(f\"expected {expected!r}, got {actual!r} at index {i}\")\n"};

const std::vector<std::string> kChinese = {
    "清晨的雾气还没有散去，河边已经有人在洗衣服了。",
    "他把信折好，放进抽屉里，再也没有打开过。",
    "根据最新的统计数据，去年全国粮食总产量比上一年增长了1.3%。",
    "“你为什么不早点告诉我？”她问道，声音有些发抖。\n",
    "这项研究表明，混合专家模型在推理时只激活一小部分参数。",
    "北京今天多云转晴，最高气温二十六度，适合外出。",
    "我们需要先读取配置文件，然后再分配内存。\n\n",
    "老人笑了笑，没有回答，只是望着远处的山。"};

// Sentences in random order: a stream that no cache of whole texts could serve.
Sample shuffled(std::string name, const std::vector<std::string>& sentences) {
  std::mt19937 random(1);
  Sample sample{std::move(name), ""};
  while (sample.text.size() < kSampleSizeBytes) {
    sample.text += sentences[random() % sentences.size()];
  }
  return sample;
}

// Median MB/s of `work` over kNumRounds, with the 10th and 90th percentile.
template <typename Work>
void report(const Sample& sample, const char* what, Work work) {
  std::vector<double> rates;
  for (int round = 0; round < kNumRounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    rates.push_back(static_cast<double>(sample.text.size()) / seconds.count() / 1e6);
  }
  std::sort(rates.begin(), rates.end());
  std::printf("%-24s %-8s %9.2f MB/s  (p10 %.2f, p90 %.2f)\n", sample.name.c_str(), what,
              rates[kNumRounds / 2], rates[kNumRounds / 10], rates[kNumRounds * 9 / 10]);
}

void measure(const Tokenizer& tokenizer, const Sample& sample) {
  std::vector<int32_t> ids;
  report(sample, "encode", [&] {
    ids.clear();
    tokenizer.encode_append(sample.text, Tokenizer::Specials::kAsText, ids);
  });
  std::string text;
  report(sample, "stream", [&] {
    text.clear();
    Utf8Stream stream;
    for (const int32_t id : ids) text += stream.push(tokenizer.token_bytes(id));
    text += stream.finish();
  });
  if (text != sample.text) std::printf("%s: decoding gives another text\n", sample.name.c_str());
  std::printf("%-24s %zu bytes, %zu tokens, %.2f bytes a token\n", "", sample.text.size(),
              ids.size(),
              static_cast<double>(sample.text.size()) / static_cast<double>(ids.size()));
}

int run(int num_args, char** args) {
  const std::string_view first = num_args > 1 ? args[1] : "";
  const bool wants_help = first == "-h" || first == "--help";
  if (num_args < 2 || wants_help) {
    std::fputs(
        "usage: bench_tokenizer MODEL_DIR [FILE...]\n"
        "  MODEL_DIR   has tiktoken.model\n"
        "  FILE        text to encode, in place of the samples\n",
        wants_help ? stdout : stderr);
    return wants_help ? 0 : 2;
  }
  const auto begin = std::chrono::steady_clock::now();
  const Tokenizer tokenizer = Tokenizer::load(args[1], kVocabSize);
  const std::chrono::duration<double, std::milli> load_ms =
      std::chrono::steady_clock::now() - begin;
  std::printf("%d tokens loaded in %.0f ms; one thread\n", tokenizer.vocab_size(), load_ms.count());
  std::vector<Sample> samples;
  for (int arg_idx = 2; arg_idx < num_args; ++arg_idx) {
    std::ifstream file(args[arg_idx], std::ios::binary);
    Sample sample{args[arg_idx], {std::istreambuf_iterator<char>(file), {}}};
    if (sample.text.empty()) std::printf("%s: empty or not readable\n", args[arg_idx]);
    if (!sample.text.empty()) samples.push_back(std::move(sample));
  }
  if (num_args == 2) {
    samples = {shuffled("English", kEnglish), shuffled("code", kCode),
               shuffled("Chinese", kChinese)};
  }
  for (const Sample& sample : samples) measure(tokenizer, sample);
  return 0;
}

}  // namespace
}  // namespace tandem

int main(int num_args, char** args) {
  try {
    return tandem::run(num_args, args);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_tokenizer: %s\n", error.what());
    return 1;
  }
}
