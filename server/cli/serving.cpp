#include "server/cli/serving.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/engine/engine.h"
#include "runtime/kv_store/page_folder.h"
#include "runtime/kv_store/page_store.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/cli/cpu_isa.h"
#include "server/cli/demo_model.h"
#include "server/cli/loaded_model.h"
#include "server/server.h"
#include "server/serving_model.h"

namespace tandem::cli {
namespace {

// Tokens of a step, where nobody said and they fit: prompts alone read the experts once for four
// chunks, and what comes meanwhile waits for as long as four take.
constexpr int32_t kPreferredBatchTokens = 2048;

// One key a line; empty lines and those that begin with # are left out.
std::vector<std::string> read_api_keys(const std::string& path) {
  std::ifstream stream(path);
  if (!stream) throw ConfigError("--api-key-file " + path + ": cannot read it");
  std::vector<std::string> keys;
  for (std::string line; std::getline(stream, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    line.erase(0, line.find_first_not_of(" \t"));
    if (!line.empty() && line.front() != '#') keys.push_back(std::move(line));
  }
  if (keys.empty()) throw ConfigError("--api-key-file " + path + ": expected a key on a line");
  return keys;
}

server::ServerOptions server_options(const ServeOptions& options,
                                     const std::filesystem::path& model_dir,
                                     const std::string& model_name) {
  server::ServerOptions result = options.server;
  if (result.served_model_names.empty()) result.served_model_names = {model_name};
  if (!options.api_key_path.empty()) {
    const std::vector<std::string> keys = read_api_keys(options.api_key_path);
    result.api_keys.insert(result.api_keys.end(), keys.begin(), keys.end());
  }
  for (const std::string& key : result.api_keys) {
    if (key.empty()) throw ConfigError("--api-key: expected a key, got an empty one");
  }
  for (const std::string& key : result.admin_api_keys) {
    if (key.empty()) throw ConfigError("--admin-api-key: expected a key, got an empty one");
  }
  // Pages of this machine may use a server that only this machine can reach.
  result.cors.loopback_origins = !result.uds_path.empty() || is_loopback(result.host);
  result.facts.model_path = model_dir.string();
  result.facts.cpu_isa = cpu_isa();
  return result;
}

// Null where none was asked for.
std::shared_ptr<PageFolder> open_kv_folder(const ServeOptions& options) {
  if (options.kv_disk_dir.empty()) return nullptr;
  try {
    return PageFolder::open({options.kv_disk_dir, options.kv_disk_size_bytes});
  } catch (const ConfigError& error) {
    throw ConfigError(std::string("--kv-disk: ") + error.what());
  }
}

// Better said at the start than by whatever else wants to write to a full disk.
void warn_of_small_disk(const PageFolder& folder) {
  const PageFolderUse use = folder.use();
  std::error_code error;
  const std::filesystem::space_info disk = std::filesystem::space(folder.dir(), error);
  const int64_t left_bytes = use.max_size_bytes - use.size_bytes;
  if (error || std::cmp_less_equal(left_bytes, disk.available)) return;
  constexpr double kGiB = 1 << 30;
  spdlog::warn("{}: --kv-disk-gib allows {:.1f} GiB more, its disk has {:.1f} GiB left",
               folder.dir().string(), static_cast<double>(left_bytes) / kGiB,
               static_cast<double>(disk.available) / kGiB);
}

// "/models/Kimi-K2-Thinking/" → "Kimi-K2-Thinking"
std::string name_of(const std::filesystem::path& model_dir) {
  std::error_code ec;
  std::filesystem::path full = std::filesystem::weakly_canonical(model_dir, ec);
  if (ec) full = model_dir;
  if (!full.has_filename()) full = full.parent_path();
  return full.filename().empty() ? "model" : full.filename().string();
}

}  // namespace

struct Serving::Impl {
  ServeOptions options;
  bool demo = false;
  std::filesystem::path model_dir;
  std::string model_name;
  std::shared_ptr<PageFolder> kv_folder;
  // The server is destroyed first, then the engine, then what it computes with.
  std::unique_ptr<LoadedModel> loaded;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<server::Server> server;

  void load(const ModelFactory& factory,
            const ProgressFn& progress,
            const std::function<void(const std::string&)>& on_plan);
};

Serving::Serving(const ServeOptions& options) : impl_(std::make_unique<Impl>()) {
  impl_->options = options;
  impl_->demo = options.model.model_dir.empty();
  impl_->model_dir = resolve_model_dir(options.model.model_dir);
  const std::string default_name = impl_->demo ? kDemoModelName : name_of(impl_->model_dir);
  const server::ServerOptions for_server = server_options(options, impl_->model_dir, default_name);
  impl_->model_name = for_server.served_model_names.front();
  // Before minutes of loading: a folder that cannot be used is an error at once.
  impl_->kv_folder = open_kv_folder(options);
  impl_->server = std::make_unique<server::Server>(for_server);
  impl_->server->start();
}

Serving::~Serving() {
  if (impl_->server) impl_->server->stop();
}

void Serving::load(const ModelFactory& factory,
                   const ProgressFn& progress,
                   const std::function<void(const std::string&)>& on_plan) {
  try {
    impl_->load(
        factory,
        [&](const Progress& done) {
          if (done.total_bytes > 0)
            impl_->server->set_loading_progress(static_cast<double>(done.done_bytes) /
                                                static_cast<double>(done.total_bytes));
          progress(done);
        },
        on_plan);
  } catch (const std::exception& error) {
    impl_->server->set_failed(error.what());
    throw;
  }
}

void Serving::Impl::load(const ModelFactory& factory,
                         const ProgressFn& progress,
                         const std::function<void(const std::string&)>& on_plan) {
  const ModelConfig config = ModelConfig::load(model_dir);
  tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(model_dir, config.vocab_size));
  ModelLimits limits;
  limits.kv_cache_tokens = options.kv_cache_tokens;
  limits.max_batch_tokens = options.max_batch_tokens;
  if (limits.max_batch_tokens == 0) {
    limits.max_batch_tokens = options.prefill_chunk_tokens + options.max_sequences;
    limits.preferred_batch_tokens = kPreferredBatchTokens;
  }
  limits.max_logit_rows = std::min(options.max_sequences, limits.max_batch_tokens);
  limits.max_context_tokens = options.max_context_tokens;
  limits.attention = options.model.attention;
  limits.expert_activations = options.model.expert_activations;
  limits.gpus = options.model.gpus;
  limits.gpu_expert_layers = options.model.gpu_expert_layers;
  limits.kv_host_size_bytes = options.kv_host_size_bytes;
  if (kv_folder != nullptr) limits.min_kv_host_pages = PageStore::kMinPagesWithFolder;
  limits.on_plan = on_plan;
  loaded = load_model(model_dir, options.model.num_threads, limits, factory, progress);

  EngineOptions engine_options;
  engine_options.max_sequences = limits.max_logit_rows;
  engine_options.max_queued_requests = options.max_queued_requests;
  engine_options.prefill_alone_tokens = loaded->model->max_batch_tokens();
  engine_options.prefill_chunk_tokens =
      std::min(options.prefill_chunk_tokens, engine_options.prefill_alone_tokens);
  engine_options.kv_folder = kv_folder;
  engine_options.wake_on_request = options.wake_on_request || options.sleep_after.count() > 0;
  engine_options.sleep_after = options.sleep_after;
  engine = std::make_unique<Engine>(*loaded->model, engine_options);
  if (kv_folder != nullptr) warn_of_small_disk(*kv_folder);

  server->set_ready(server::make_serving_model(*engine, *tokenizer, config));
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

void Serving::drain() { impl_->server->drain(); }
void Serving::stop() { impl_->server->stop(); }
bool Serving::failed() const { return impl_->engine && impl_->engine->stats().failed; }
bool Serving::is_demo() const { return impl_->demo; }
std::string Serving::model_name() const { return impl_->model_name; }
std::filesystem::path Serving::model_dir() const { return impl_->model_dir; }

std::string Serving::url() const {
  const server::ServerOptions& options = impl_->options.server;
  const std::string scheme = options.tls_certificate_path.empty() ? "http://" : "https://";
  if (!options.uds_path.empty()) return scheme + "localhost";
  const std::string& host = options.host;
  // An address that means "every interface" is no place to connect to.
  std::string shown = host;
  if (host == "0.0.0.0") shown = "127.0.0.1";
  if (host == "::" || host == "[::]") shown = "[::1]";
  if (shown.find(':') != std::string::npos && shown.front() != '[') shown = "[" + shown + "]";
  return scheme + shown + ":" + std::to_string(impl_->server->port());
}

std::string Serving::description() const {
  return impl_->loaded && impl_->loaded->model ? impl_->loaded->model->description() : "";
}

}  // namespace tandem::cli
