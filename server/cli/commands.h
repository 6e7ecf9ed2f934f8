// The commands of the executable: what the command line says, as plain structs, and one function
// each. They return the process's exit status and throw LoadError or ConfigError.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/model/model_config.h"
#include "server/cli/model_factory.h"
#include "server/server.h"

namespace tandem::cli {

struct ModelOptions {
  std::string model_dir;  // "": the demo model
  int num_threads = 0;    // 0: one per physical core
  Attention attention = Attention::kAuto;
  ExpertActivations expert_activations = ExpertActivations::kBf16;
  std::string gpus;                          // "": the first card where there is one
  std::optional<int32_t> gpu_expert_layers;  // absent: what fits
};

struct ServeOptions {
  ModelOptions model;
  server::ServerOptions server;
  std::string api_key_path;  // one key a line; "": none but those in `server`
  int64_t kv_cache_tokens = 0;
  std::optional<int64_t> kv_host_size_bytes;        // absent: the model chooses
  std::string kv_disk_dir;                          // "": none
  int64_t kv_disk_size_bytes = int64_t{100} << 30;  // of all pages in kv_disk_dir
  int32_t max_context_tokens = 0;
  int32_t prefill_chunk_tokens = 512;
  // 0: 2,048 where there is room for them, but prefill_chunk_tokens + max_sequences at least.
  int32_t max_batch_tokens = 0;
  int32_t max_sequences = 64;
  int32_t max_queued_requests = 256;
  bool wake_on_request = false;
  std::chrono::seconds sleep_after{0};  // of idleness; requests then wake the model. 0: never
};

struct ChatOptions {
  std::string url;     // "": the usual place, else a server of our own
  ModelOptions model;  // model_dir: a server of our own, in this process
  std::string api_key;
  std::string prompt;  // with has_prompt: one question, one answer; "-": the whole of stdin
  bool has_prompt = false;
  std::string system;
  std::optional<bool> show_thinking;  // absent: when stdout is a terminal
  std::optional<double> temperature;
  std::optional<uint64_t> seed;
  std::optional<int32_t> max_tokens;
};

struct CheckOptions {
  std::string dir;
  bool json = false;
};

struct LogitsOptions {
  ModelOptions model;
  std::string tokens_path;
  std::string out_path;
  bool reference = false;
  bool experts_int4 = false;  // the reference with experts rounded as the fast path rounds them
  int32_t chunk_tokens = 512;
};

struct MakeCheckpointOptions {
  std::string dir;
  ModelConfig config;
  std::string vocab_path;  // tiktoken.model; "": the small vocabulary
  uint64_t seed = 1;
  bool force = false;
};

struct BenchOptions {
  ModelOptions model;
  std::vector<int32_t> prompt_tokens = {128, 512};
  std::vector<int32_t> batch_sizes = {1, 4};
  std::vector<int32_t> context_tokens = {128};
  int32_t decode_tokens = 16;
  int32_t chunk_tokens = 512;
  int32_t num_repeats = 3;
  int64_t bandwidth_size_mib = 512;
  bool stream = false;  // the memory's bandwidth by node, no model
  bool json = false;
};

int run_serve(const ServeOptions& options, const ModelFactory& factory);
int run_chat(const ChatOptions& options, const ModelFactory& factory);
int run_check(const CheckOptions& options);
int run_logits(const LogitsOptions& options, const ModelFactory& factory);
int run_make_checkpoint(const MakeCheckpointOptions& options);
int run_bench(const BenchOptions& options, const ModelFactory& factory);
int run_bench_stream(const BenchOptions& options);
int run_version(bool json, const GpuDescription& describe_gpus);

// "tiny", "small" or "k2"; throws ConfigError for another name.
ModelConfig preset_config(const std::string& name);

}  // namespace tandem::cli
