#include "server/cli/options.h"

#include <algorithm>

namespace tandem::cli {

CLI::App* add_command(CLI::App& app,
                      const std::string& name,
                      const std::string& description,
                      const std::string& examples) {
  CLI::App* command = app.add_subcommand(name, description);
  command->group("Commands")->footer("\nExamples:\n" + examples);
  return command;
}

void add_gpu_options(CLI::App* command, ModelOptions& model) {
  command
      ->add_option("--gpus", model.gpus,
                   "none, 0, or 0,1 (default: first of sm_80 or later, else none)")
      ->type_name("LIST")
      ->group("Computing");
  command
      ->add_option("--gpu-expert-layers", model.gpu_expert_layers,
                   "MoE layers with experts on GPUs (default: what fits)")
      ->check(CLI::Range(0, 1 << 16).description(""))
      ->type_name("N")
      ->group("Computing");
}

void add_attention_option(CLI::App* command, Attention& attention) {
  command
      ->add_option_function<std::string>(
          "--attention",
          [&attention](const std::string& name) {
            if (name == "absorbed") attention = Attention::kAbsorbed;
            if (name == "expanded") attention = Attention::kExpanded;
          },
          "auto, absorbed or expanded (default: auto)")
      ->check(CLI::IsMember({"auto", "absorbed", "expanded"}).description(""))
      ->type_name("FORM")
      ->group("Computing");
}

void add_expert_activations_option(CLI::App* command, ExpertActivations& activations) {
  command
      ->add_option_function<std::string>(
          "--expert-activations",
          [&activations](const std::string& name) {
            activations = name == "int8" ? ExpertActivations::kInt8 : ExpertActivations::kBf16;
          },
          "bf16, or int8: lossy, faster prompts (default: bf16)")
      ->check(CLI::IsMember({"bf16", "int8"}).description(""))
      ->type_name("FORM")
      ->group("Computing");
}

void add_threads_option(CLI::App* command, int& num_threads) {
  command->add_option("--threads", num_threads, "Computing threads (default: one per core)")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N")
      ->group("Computing");
}

void add_model_option(CLI::App* command, std::string& model_dir, const std::string& description) {
  command->add_option("-m,--model", model_dir, description)->type_name("DIR")->group("Model");
}

namespace {

// "http://user:password@host/path?key=..." as "http://host/path".
std::string without_secrets(std::string url) {
  url.erase(std::min(url.find('?'), url.size()));
  const size_t scheme_end = url.find("://");
  const size_t host_begin = scheme_end == std::string::npos ? 0 : scheme_end + 3;
  const size_t user_end = url.substr(0, url.find('/', host_begin)).rfind('@');
  if (user_end != std::string::npos) url.erase(host_begin, user_end + 1 - host_begin);
  return url;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> given_options(const CLI::App& command) {
  std::vector<std::pair<std::string, std::string>> given;
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0 || option->get_lnames().empty()) continue;
    std::string value;
    for (const std::string& result : option->results()) {
      if (!value.empty()) value += ',';
      value += result;
    }
    if (option->get_type_name() == "KEY") value = "***";
    if (option->get_type_name() == "URL") value = without_secrets(std::move(value));
    given.emplace_back(option->get_lnames().front(), std::move(value));
  }
  return given;
}

CLI::Option* add_text(CLI::App* command,
                      const std::string& name,
                      std::string& value,
                      const std::string& type_name,
                      const std::string& description,
                      const std::string& group) {
  return command->add_option(name, value, description)->type_name(type_name)->group(group);
}

}  // namespace tandem::cli
