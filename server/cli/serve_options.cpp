#include "server/cli/serve_options.h"

#include <algorithm>

#include "server/cli/options.h"

namespace tandem::cli {
namespace {

void add_serve_network(CLI::App* command, ServeOptions& options) {
  server::ServerOptions& server = options.server;
  CLI::Option* host = add_text(command, "--host", server.host, "ADDRESS",
                               "Address to listen on (default: 127.0.0.1)", "Network");
  CLI::Option* port =
      command->add_option("--port", server.port, "Port, 0 for any free one (default: 8000)")
          ->check(CLI::Range(0, 65535).description(""))
          ->type_name("PORT")
          ->group("Network");
  add_text(command, "--uds", server.uds_path, "PATH", "A Unix socket in place of host and port",
           "Network")
      ->excludes(host)
      ->excludes(port);
  CLI::Option* certificate = add_text(command, "--tls-cert", server.tls_certificate_path, "FILE",
                                      "Speak HTTPS: PEM certificate with its chain", "Network");
  CLI::Option* key = add_text(command, "--tls-key", server.tls_private_key_path, "FILE",
                              "PEM private key of the certificate", "Network");
  certificate->needs(key);
  key->needs(certificate);
  command
      ->add_option("--api-key", server.api_keys,
                   "Key clients must send; may be repeated (or TANDEM_API_KEY)")
      ->type_name("KEY")
      ->envname("TANDEM_API_KEY")
      ->group("Network");
  add_text(command, "--api-key-file", options.api_key_path, "FILE",
           "More keys, one a line; # begins a comment", "Network");
  command
      ->add_option("--admin-api-key", server.admin_api_keys,
                   "Aborts, resets, sleep; else any key (or TANDEM_ADMIN_API_KEY)")
      ->type_name("KEY")
      ->envname("TANDEM_ADMIN_API_KEY")
      ->group("Network");
  command
      ->add_option("--cors-origin", server.cors.origins,
                   "Origin of pages that may ask, * for any (default: loopback)")
      ->type_name("ORIGIN")
      ->group("Network");
  add_seconds(command, "--sse-keep-alive", server.sse_keep_alive_interval, 1, 3600,
              "Silence before a comment keeps a stream alive (default: 10)", "Network");
  add_seconds(command, "--keep-alive-timeout", server.keep_alive_timeout, 1, 86400,
              "How long an idle connection is kept (default: 75)", "Network");
  add_number(command, "--io-threads", server.num_io_threads, 1, 256,
             "Threads for connections (default: 1)", "Network");
  add_seconds(command, "--drain-timeout", server.drain_timeout, 0, 86400,
              "For running answers at the end (default: 30)", "Network");
}

// What answers and streams look like, unless a request says otherwise.
void add_serve_answers(CLI::App* command, server::ServerOptions& server) {
  command
      ->add_flag("--strict-params", server.strict_params,
                 "Unknown keys of a request are a 400 (default: ignored)")
      ->group("Answers");
  add_number(command, "--stream-interval", server.stream_interval, 1, 1 << 20,
             "Tokens of a stream's chunk, at least (default: 1)", "Answers");
  add_number(command, "--max-logprobs", server.max_logprobs, -1, 1 << 20,
             "Of a token, in a request; -1: no limit (default: 20)", "Answers");
  command
      ->add_flag("--enable-force-include-usage", server.force_include_usage,
                 "Every stream ends with its usage, asked for or not")
      ->group("Answers");
}

void add_serve_limits(CLI::App* command, ServeOptions& options) {
  add_number<int64_t>(command, "--kv-cache-tokens", options.kv_cache_tokens, 64, int64_t{1} << 40,
                      "Tokens of all sequences kept in the KV cache", "Limits");
  add_number(command, "--max-context", options.max_context_tokens, 1, kMaxTokens,
             "Tokens of one sequence (default: the model's limit)", "Limits");
  add_number(command, "--max-sequences", options.max_sequences, 1, 4096,
             "Answers running at once (default: 64)", "Limits");
  add_number(command, "--max-queue", options.max_queued_requests, 1, 1 << 20,
             "Requests waiting; more get status 429 (default: 256)", "Limits");
  add_number(command, "--max-connections", options.server.max_connections, 1, 1 << 20,
             "Connections open; more get status 503 (default: 4096)", "Limits");
  command
      ->add_option_function<int64_t>(
          "--max-body-mib",
          [&server = options.server](int64_t mib) {
            server.max_body_size_bytes = mib << 20;
            // One such body alone has to fit.
            server.max_total_body_size_bytes =
                std::max(server.max_total_body_size_bytes, server.max_body_size_bytes);
          },
          "Size of one request; more gets status 413 (default: 64)")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("MIB")
      ->group("Limits");
  add_number(command, "--prefill-chunk", options.prefill_chunk_tokens, 1, 1 << 20,
             "Prompt tokens of a step beside answers (default: 512)", "Limits");
  add_number(command, "--max-batch-tokens", options.max_batch_tokens, 1, 1 << 20,
             "Of a step; prompts alone take all (default: 2048, if they fit)", "Limits");
}

// Where KV pages are kept beside the KV cache.
void add_serve_kv_pages(CLI::App* command, ServeOptions& options) {
  command
      ->add_option_function<int64_t>(
          "--kv-host-gib", [&options](int64_t gib) { options.kv_host_size_bytes = gib << 30; },
          "In host memory (default: half the free, at most 32; no GPU: 0)")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->type_name("GIB")
      ->group("KV pages");
  CLI::Option* dir = add_text(command, "--kv-disk", options.kv_disk_dir, "DIR",
                              "Folder in which they outlive the server (default: none)", "KV pages")
                         ->check([](const std::string& value) {
                           return std::string(value.empty() ? "expected a folder" : "");
                         });
  command
      ->add_option_function<int64_t>(
          "--kv-disk-gib", [&options](int64_t gib) { options.kv_disk_size_bytes = gib << 30; },
          "Size of it; those unused for longest go first (default: 100)")
      ->check(CLI::Range(1, 1 << 30).description(""))
      ->type_name("GIB")
      ->group("KV pages")
      ->needs(dir);
}

}  // namespace

CLI::App* add_serve_command(CLI::App& app, ServeOptions& options, std::string& log_level) {
  CLI::App* command =
      add_command(app, "serve", "Serve a model over HTTP: the APIs of OpenAI and Anthropic",
                  "  tandem serve                                   the tiny demo model\n"
                  "  tandem serve --model /models/Kimi-K2-Thinking\n"
                  "  tandem serve --host 0.0.0.0 --port 9000 --api-key secret\n"
                  "  tandem serve --tls-cert chain.pem --tls-key key.pem --api-key-file keys\n");
  add_model_option(command, options.model.model_dir, "Checkpoint folder (default: the demo model)");
  command
      ->add_option("--served-model-name", options.server.served_model_names, "Name(s) in the API")
      ->type_name("NAME")
      ->group("Model");
  command
      ->add_flag("--preserve-thinking", options.server.preserve_thinking,
                 "Keep all thinking in prompts, not only an open tool loop's")
      ->group("Model");
  command
      ->add_flag("--wake-on-request", options.wake_on_request,
                 "Requests wake a model that sleeps (default: status 503)")
      ->group("Model");
  add_seconds(command, "--sleep-after", options.sleep_after, 1, 1 << 30,
              "Idle so long it sleeps, and requests wake it (default: never)", "Model");
  add_serve_answers(command, options.server);
  add_serve_network(command, options);
  add_serve_limits(command, options);
  add_serve_kv_pages(command, options);
  add_threads_option(command, options.model.num_threads);
  add_attention_option(command, options.model.attention);
  add_expert_activations_option(command, options.model.expert_activations);
  add_gpu_options(command, options.model);
  add_text(command, "--log-requests", options.server.request_log_path, "FILE",
           "A JSON line of every request, when its answer ends", "Other");
  command
      ->add_flag("--log-content", options.server.log_content,
                 "With what was asked and answered (default: without)")
      ->group("Other")
      ->needs("--log-requests");
  add_text(command, "--otlp-traces-endpoint", options.server.otlp_traces_url, "URL",
           "Collector that gets a span of every request, as OTLP over HTTP", "Other")
      ->envname("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
  command
      ->add_option("--log-level", log_level,
                   "trace, debug, info, warning, error, off (default: info)")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}).description(""))
      ->type_name("LEVEL")
      ->group("Other");
  command
      ->add_option("--disable-access-log-for-endpoints", options.server.unlogged_paths,
                   "Without a line in the log: /health,/metrics")
      ->delimiter(',')
      ->type_name("PATHS")
      ->group("Other");
  return command;
}

}  // namespace tandem::cli
