#include "server/cli/command_line.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <string>

#include "runtime/base/errors.h"
#include "server/cli/commands.h"
#include "server/cli/logging.h"
#include "server/cli/options.h"
#include "server/cli/serve_options.h"

namespace tandem::cli {
namespace {

using Run = std::function<int()>;

// Every option's value has a place in here; it outlives parsing and running.
struct Commands {
  ServeOptions serve;
  ChatOptions chat;
  CheckOptions check;
  LogitsOptions logits;
  MakeCheckpointOptions make_checkpoint;
  BenchOptions bench;
  std::string log_level = "info";
  std::string preset = "tiny";
  bool version_json = false;
  Run run;
};

// CLI11's help without its asides (Env:, Excludes:, REQUIRED, {false}) and double blank lines.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(38); }

  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_size() == 0 || option->get_type_name().empty()
               ? std::string()
               : " " + option->get_type_name();
  }
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    const std::string name = CLI::Formatter::make_option_name(option, is_positional);
    return name.substr(0, name.find('{'));
  }
  std::string make_help(const CLI::App* app,
                        std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string help = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t blank = help.find("\n\n\n"); blank != std::string::npos;
         blank = help.find("\n\n\n", blank))
      help.erase(blank, 1);
    return help;
  }
};

void add_serve(CLI::App& app,
               Commands& commands,
               const ModelFactory& factory,
               const GpuDescription& describe_gpus) {
  CLI::App* command = add_serve_command(app, commands.serve, commands.log_level);
  command->callback([&, command] {
    server::ServerFacts& facts = commands.serve.server.facts;
    facts.flags = given_options(*command);
    commands.run = [&] {
      facts.gpu = describe_gpus();
      return run_serve(commands.serve, factory);
    };
  });
}

void add_chat(CLI::App& app, Commands& commands, const ModelFactory& factory) {
  ChatOptions& options = commands.chat;
  CLI::App* command =
      add_command(app, "chat", "Talk to a model in the terminal",
                  "  tandem chat                                    the server on port 8000, else "
                  "the demo model\n"
                  "  tandem chat --url http://box:8000 --system 'Answer in one sentence.'\n"
                  "  tandem chat --model DIR -p 'which one is bigger, 9.11 or 9.9?'\n"
                  "  echo 'Hello!' | tandem chat\n");
  auto* url = command
                  ->add_option("--url", options.url,
                               "Talk to the server there (default: http://127.0.0.1:8000)")
                  ->type_name("URL")
                  ->group("Model");
  command
      ->add_option("-m,--model", options.model.model_dir,
                   "Start a server here with this checkpoint")
      ->type_name("DIR")
      ->excludes(url)
      ->group("Model");
  command->add_option("--api-key", options.api_key, "Key for the server (or TANDEM_API_KEY)")
      ->type_name("KEY")
      ->envname("TANDEM_API_KEY")
      ->group("Model");
  command
      ->add_option("-p,--prompt", options.prompt,
                   "Ask this, print the answer, leave; - reads stdin to its end")
      ->type_name("TEXT")
      ->each([&](const std::string&) { options.has_prompt = true; })
      ->group("Conversation");
  command->add_option("--system", options.system, "System prompt")
      ->type_name("TEXT")
      ->group("Conversation");
  command
      ->add_flag_function(
          "--thinking,!--no-thinking", [&](int64_t count) { options.show_thinking = count > 0; },
          "Show the thinking or not (default: on a terminal)")
      ->group("Conversation");
  command
      ->add_option("--temperature", options.temperature,
                   "0 to 2; 0 always takes the likeliest token")
      ->check(CLI::Range(0.0, 2.0).description(""))
      ->type_name("X")
      ->group("Conversation");
  command->add_option("--max-tokens", options.max_tokens, "Limit of one answer, thinking included")
      ->check(CLI::Range(1, kMaxTokens).description(""))
      ->type_name("N")
      ->group("Conversation");
  command->add_option("--seed", options.seed, "The same seed gives the same answer")
      ->type_name("N")
      ->group("Conversation");
  add_threads_option(command, options.model.num_threads);
  add_gpu_options(command, options.model);
  command->callback([&] {
    commands.log_level = "warning";
    commands.run = [&] { return run_chat(options, factory); };
  });
}

void add_check(CLI::App& app, Commands& commands) {
  CheckOptions& options = commands.check;
  CLI::App* command =
      add_command(app, "check", "Say what a checkpoint folder holds and what is wrong with it",
                  "  tandem check /models/Kimi-K2-Thinking\n"
                  "  tandem check DIR --json | jq .problems\n");
  command->add_option("DIR", options.dir, "Checkpoint folder")->type_name("")->required();
  command->add_flag("--json", options.json, "Print JSON");
  command->callback([&] { commands.run = [&] { return run_check(options); }; });
}

void add_logits(CLI::App& app, Commands& commands, const ModelFactory& factory) {
  LogitsOptions& options = commands.logits;
  CLI::App* command = add_command(
      app, "logits", "Write the logits of every position of a token sequence",
      "  echo '[1, 2, 3]' > ids.json\n"
      "  tandem logits --model DIR --tokens ids.json --out fast.safetensors\n"
      "  tandem logits --model DIR --tokens ids.json --out slow.safetensors --reference\n");
  add_model_option(command, options.model.model_dir, "Checkpoint folder (default: the demo model)");
  command
      ->add_option("--tokens", options.tokens_path,
                   "JSON: a list of token ids, or {\"input_ids\": [...]}")
      ->type_name("FILE")
      ->required()
      ->group("Input and output");
  command
      ->add_option("--out", options.out_path, "safetensors with `logits`, F32 [tokens, vocab_size]")
      ->type_name("FILE")
      ->required()
      ->group("Input and output");
  command
      ->add_flag("--reference", options.reference, "The naive FP32 model instead of the fast path")
      ->group("Computing");
  command
      ->add_flag("--experts-int4", options.experts_int4,
                 "With --reference: round BF16 experts to INT4 first")
      ->group("Computing");
  add_number(command, "--chunk", options.chunk_tokens, 1, 1 << 20,
             "Tokens of one step (default: 512)", "Computing");
  add_threads_option(command, options.model.num_threads);
  add_gpu_options(command, options.model);
  add_attention_option(command, options.model.attention);
  add_expert_activations_option(command, options.model.expert_activations);
  command->callback([&] { commands.run = [&] { return run_logits(options, factory); }; });
}

void add_bench(CLI::App& app, Commands& commands, const ModelFactory& factory) {
  BenchOptions& options = commands.bench;
  CLI::App* command = add_command(
      app, "bench", "Measure prefill, and decode as a share of the memory bandwidth",
      "  tandem bench\n"
      "  tandem bench --model DIR --prompt-tokens 128,512,2048 --batch 1,8 --context 1024\n"
      "  tandem bench --json > bench.json\n"
      "  tandem bench --stream\n");
  const auto add_list = [&](const std::string& name, std::vector<int32_t>& values, int32_t smallest,
                            const std::string& description) {
    command->add_option(name, values, description)
        ->delimiter(',')
        ->check(CLI::Range(smallest, kMaxTokens).description(""))
        ->type_name("N,N,..")
        ->group("What to measure");
  };
  add_model_option(command, options.model.model_dir, "Checkpoint folder (default: the demo model)");
  add_list("--prompt-tokens", options.prompt_tokens, 1, "Lengths to prefill (default: 128,512)");
  add_list("--batch", options.batch_sizes, 1, "Sequences that decode at once (default: 1,4)");
  add_list("--context", options.context_tokens, 0, "Tokens before the decoded ones (default: 128)");
  add_number(command, "--decode-tokens", options.decode_tokens, 1, 1 << 20,
             "Steps of one decode run (default: 16)", "What to measure");
  add_number(command, "--repeats", options.num_repeats, 1, 1000,
             "Runs of each; medians are shown (default: 3)", "What to measure");
  add_number(command, "--chunk", options.chunk_tokens, 1, 1 << 20,
             "Prompt tokens of one step (default: 512)", "What to measure");
  add_number<int64_t>(command, "--bandwidth-mib", options.bandwidth_size_mib, 16, 1 << 20,
                      "Buffer for the bandwidth (default: 512)", "What to measure");
  add_threads_option(command, options.model.num_threads);
  add_gpu_options(command, options.model);
  add_attention_option(command, options.model.attention);
  add_expert_activations_option(command, options.model.expert_activations);
  command
      ->add_flag("--stream", options.stream, "Only the memory's bandwidth, by NUMA node; no model")
      ->group("What to measure");
  command->add_flag("--json", options.json, "Print JSON");
  command->callback([&] {
    commands.run = [&] {
      return options.stream ? run_bench_stream(options) : run_bench(options, factory);
    };
  });
}

// A dimension: taken from the preset unless it is named.
struct Dimension {
  const char* name;
  int32_t ModelConfig::*field;
  const char* description;
};
constexpr Dimension kDimensions[] = {
    {"--layers,--num-hidden-layers", &ModelConfig::num_hidden_layers, "Layers in all"},
    {"--dense-layers,--first-k-dense-replace", &ModelConfig::first_k_dense_replace,
     "The first of them without experts"},
    {"--experts,--n-routed-experts", &ModelConfig::n_routed_experts, "Routed experts of a layer"},
    {"--experts-per-token,--num-experts-per-tok", &ModelConfig::num_experts_per_tok,
     "Experts chosen for a token"},
    {"--shared-experts,--n-shared-experts", &ModelConfig::n_shared_experts, "Shared experts"},
    {"--hidden,--hidden-size", &ModelConfig::hidden_size, "hidden_size"},
    {"--intermediate,--intermediate-size", &ModelConfig::intermediate_size,
     "Width of the dense MLP"},
    {"--moe-intermediate,--moe-intermediate-size", &ModelConfig::moe_intermediate_size,
     "Width of an expert"},
    {"--heads,--num-attention-heads", &ModelConfig::num_attention_heads, "Attention heads"},
    {"--q-lora-rank", &ModelConfig::q_lora_rank, "0: one q_proj"},
    {"--kv-lora-rank", &ModelConfig::kv_lora_rank, "Width of the latent KV"},
    {"--qk-nope-head-dim", &ModelConfig::qk_nope_head_dim, "Head part without position"},
    {"--qk-rope-head-dim", &ModelConfig::qk_rope_head_dim, "Head part with position"},
    {"--v-head-dim", &ModelConfig::v_head_dim, "Values of a head"},
    {"--vocab-size", &ModelConfig::vocab_size, "Rows of the embedding"},
    {"--max-positions,--max-position-embeddings", &ModelConfig::max_position_embeddings,
     "Longest context"},
    {"--groups,--n-group", &ModelConfig::n_group, "Expert groups"},
    {"--topk-group", &ModelConfig::topk_group, "Groups kept for a token"}};

void add_make_checkpoint(CLI::App& app, Commands& commands) {
  MakeCheckpointOptions& options = commands.make_checkpoint;
  CLI::App* command = add_command(
      app, "make-checkpoint", "Write random weights in Kimi-K2-Thinking's format",
      "  tandem make-checkpoint /tmp/tiny\n"
      "  tandem make-checkpoint /tmp/two --preset k2 --layers 2        one dense, one MoE layer, "
      "15 GB\n"
      "  tandem make-checkpoint /tmp/k2 --preset k2 --vocab tiktoken.model\n");
  command->add_option("DIR", options.dir, "Folder to write")->type_name("")->required();
  command
      ->add_option("--preset", commands.preset,
                   "tiny (2 MB, default), small (0.5 GB) or k2 (the real size)")
      ->check(CLI::IsMember({"tiny", "small", "k2"}).description(""))
      ->type_name("NAME")
      ->group("Dimensions");
  auto dimensions = std::make_shared<std::vector<std::pair<const Dimension*, int32_t>>>();
  for (const Dimension& dimension : kDimensions)
    command
        ->add_option_function<int32_t>(
            dimension.name,
            [dimensions, &dimension](const int32_t& value) {
              dimensions->emplace_back(&dimension, value);
            },
            dimension.description)
        ->check(CLI::Range(0, 1 << 24).description(""))
        ->type_name("N")
        ->group("Dimensions");
  command
      ->add_option("--vocab", options.vocab_path,
                   "tiktoken.model to take (default: a small vocabulary)")
      ->type_name("FILE")
      ->group("Other");
  command->add_option("--seed", options.seed, "Of the random weights (default: 1)")
      ->check(CLI::Range(int64_t{0}, kMaxSeed).description(""))
      ->type_name("N")
      ->group("Other");
  command->add_flag("--force", options.force, "Write over what is there")->group("Other");
  command->callback([&, dimensions] {
    commands.run = [&, dimensions] {
      options.config = preset_config(commands.preset);
      for (const auto& [dimension, value] : *dimensions) options.config.*(dimension->field) = value;
      return run_make_checkpoint(options);
    };
  });
}

void add_commands(CLI::App& app,
                  Commands& commands,
                  const ModelFactory& factory,
                  const GpuDescription& describe_gpus) {
  add_serve(app, commands, factory, describe_gpus);
  add_chat(app, commands, factory);
  add_check(app, commands);
  add_logits(app, commands, factory);
  add_bench(app, commands, factory);
  add_make_checkpoint(app, commands);
  CLI::App* version = add_command(app, "version", "Say what this build is and what this CPU has",
                                  "  tandem version\n  tandem version --json | jq .cpu_isa\n");
  version->add_flag("--json", commands.version_json, "Print JSON");
  version->callback(
      [&] { commands.run = [&] { return run_version(commands.version_json, describe_gpus); }; });
}

// "serve --port x: ..." in one line, with the place where help is.
int report_usage(const CLI::App& app, const CLI::ParseError& error) {
  std::string message = error.what();
  std::replace(message.begin(), message.end(), '\n', ' ');
  const auto chosen = app.get_subcommands();
  const std::string command = chosen.empty() ? "" : " " + chosen.front()->get_name();
  std::fprintf(stderr, "tandem: error: %s (see: tandem%s --help)\n", message.c_str(),
               command.c_str());
  return 2;
}

int report_failure(const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "tandem: error: %s\n", message.c_str());
  return 1;
}

}  // namespace

int run_command_line(int argc,
                     char** argv,
                     const ModelFactory& factory,
                     const GpuDescription& describe_gpus) {
  CLI::App app(
      "tandem serves Kimi-K2-Thinking from its own checkpoint: experts on the CPU, the rest\n"
      "on a GPU or, in its absence, on the CPU as well.\n",
      "tandem");
  app.formatter(std::make_shared<HelpFormatter>());
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  app.set_help_flag("-h,--help", "Show this text");
  app.footer(
      "\nExamples:\n"
      "  tandem serve                                   serve the tiny demo model\n"
      "  tandem serve --model /models/Kimi-K2-Thinking\n"
      "  tandem chat                                    talk to it in this terminal\n"
      "  tandem check DIR                               is that checkpoint whole?\n\n"
      "tandem COMMAND --help says more about one of them.\n");
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", std::string("tandem ") + TANDEM_VERSION, "Show the version");
  Commands commands;
  add_commands(app, commands, factory, describe_gpus);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    return report_usage(app, error);
  }
  if (!commands.run) {
    std::fputs(app.help().c_str(), stdout);
    return 0;
  }
  try {
    set_up_logging(commands.log_level);
    return commands.run();
  } catch (const std::bad_alloc&) {
    return report_failure("out of memory");
  } catch (const std::exception& error) {
    return report_failure(error.what());
  }
}

}  // namespace tandem::cli
