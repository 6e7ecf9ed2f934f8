#include "server/server_info.h"

#include "server/http/json_writer.h"

namespace tandem::server {
namespace {

void write_strings(JsonWriter& json, const std::vector<std::string>& strings) {
  json.begin_array();
  for (const std::string& text : strings) json.string(text);
  json.end_array();
}

// This server's tokenizer is part of the checkpoint.
void write_model(JsonWriter& json, const ServerState& state) {
  json.key("model_path").string(state.options.facts.model_path);
  json.key("tokenizer_path").string(state.options.facts.model_path);
  json.key("model_type").string(state.model_type());
  json.key("served_model_name").string(state.model().names.front());
  json.key("is_generation").boolean(true);
}

void write_limits(JsonWriter& json, const ServerState& state, const EngineStats& stats) {
  const Engine& engine = state.engine();
  json.key("context_length").integer(state.model().max_context_tokens);
  json.key("vocab_size").integer(state.model().vocab_size);
  json.key("page_size").integer(kPageSizeTokens);
  json.key("num_kv_pages").integer(engine.model().num_kv_pages());
  json.key("max_total_num_tokens")
      .integer(int64_t{engine.model().num_kv_pages()} * kPageSizeTokens);
  json.key("num_kv_host_pages").integer(stats.kv_host_pages_total);
  json.key("kv_disk_limit_bytes").integer(stats.kv_disk_limit_bytes);
  json.key("max_running_requests").integer(engine.options().max_sequences);
  json.key("max_queued_requests").integer(engine.options().max_queued_requests);
  json.key("chunked_prefill_size").integer(engine.options().prefill_chunk_tokens);
  json.key("max_prefill_tokens").integer(engine.max_prefill_tokens());
  json.key("max_n").integer(state.options.max_n);
  json.key("max_logprobs").integer(state.options.max_logprobs);
  json.key("max_connections").integer(state.options.max_connections);
  json.key("max_body_size_bytes").integer(state.options.max_body_size_bytes);
  json.key("max_total_body_size_bytes").integer(state.options.max_total_body_size_bytes);
}

void write_machine(JsonWriter& json, const ServerState& state) {
  const ServerFacts& facts = state.options.facts;
  json.key("cpu_isa");
  write_strings(json, facts.cpu_isa);
  json.key("gpu").string(facts.gpu);
  json.key("placement");
  write_strings(json, state.placement());
  json.key("flags").begin_object();
  for (const auto& [name, value] : facts.flags) json.key(name).string(value);
  json.end_object();
}

void write_engine_state(JsonWriter& json, const EngineStats& stats) {
  json.begin_object();
  json.key("num_running_reqs").integer(stats.num_running);
  json.key("num_waiting_reqs").integer(stats.num_waiting);
  json.key("kv_pages_used").integer(stats.kv_pages_used);
  json.key("kv_host_pages_used").integer(stats.kv_host_pages_used);
  json.key("kv_disk_size_bytes").integer(stats.kv_disk_size_bytes);
  json.key("kv_disk_pages_read").integer(stats.kv_disk_pages_read);
  json.key("kv_disk_pages_written").integer(stats.kv_disk_pages_written);
  json.key("kv_disk_failures").integer(stats.kv_disk_failures);
  json.key("prompt_tokens").integer(stats.prompt_tokens);
  json.key("cached_tokens").integer(stats.cached_tokens);
  json.key("restored_tokens").integer(stats.restored_tokens);
  json.key("generated_tokens").integer(stats.generated_tokens);
  json.key("num_steps").integer(stats.num_steps);
  json.key("num_finished").integer(stats.num_finished);
  json.key("num_aborted").integer(stats.num_aborted);
  json.end_object();
}

}  // namespace

std::string server_info_json(const ServerState& state) {
  const EngineStats stats = state.engine().stats();
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("version").string(TANDEM_VERSION);
  write_model(json, state);
  json.key("served_model_names");
  write_strings(json, state.model().names);
  write_limits(json, state, stats);
  // One copy of the model, in this process.
  json.key("tp_size").integer(1).key("dp_size").integer(1);
  write_machine(json, state);
  json.key("internal_states").begin_array();
  write_engine_state(json, stats);
  json.end_array().end_object();
  return out;
}

std::string model_info_json(const ServerState& state) {
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  write_model(json, state);
  json.key("preferred_sampling_params").null();
  json.key("has_image_understanding").boolean(false);
  json.key("has_audio_understanding").boolean(false);
  json.end_object();
  return out;
}

std::string sglang_load_json(const ServerState& state) {
  EngineStats stats;
  if (state.phase() == ServerState::Phase::kReady) stats = state.engine().stats();
  std::string out;
  JsonWriter json(out);
  json.begin_array().begin_object().key("dp_rank").integer(0);
  json.key("num_reqs").integer(stats.num_running + stats.num_waiting);
  json.key("num_waiting_reqs").integer(stats.num_waiting);
  json.key("num_tokens").integer(stats.kv_pages_used * kPageSizeTokens);
  json.end_object().end_array();
  return out;
}

}  // namespace tandem::server
