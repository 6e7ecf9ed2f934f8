#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include "runtime/base/errors.h"
#include "server/cli/chat_stream.h"
#include "server/cli/commands.h"
#include "server/cli/demo_model.h"
#include "server/cli/http_client.h"
#include "server/cli/line_input.h"
#include "server/cli/serving.h"
#include "server/cli/terminal.h"

namespace tandem::cli {
namespace {

constexpr const char* kUsualUrl = "http://127.0.0.1:8000";

// Ctrl-C cuts the answer that is being given; at the prompt it interrupts read(). A handler can
// reach file-level state only.
std::atomic<HttpClient*> answering_client{nullptr};
pthread_t main_thread;

extern "C" void on_interrupt(int signal_number) {
  // Any thread may be picked; the one at the prompt must see its read() interrupted.
  if (pthread_equal(pthread_self(), main_thread) == 0) {
    pthread_kill(main_thread, signal_number);
    return;
  }
  HttpClient* client = answering_client;
  if (client != nullptr) client->cancel();
}

void catch_interrupt() {
  main_thread = pthread_self();
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: read() ends with EINTR
  sigaction(SIGINT, &action, nullptr);
}

class Conversation {
 public:
  Conversation(HttpClient& client, std::string model, const ChatOptions& options)
      : client_(client), model_(std::move(model)), options_(options) {
    terminal_ = is_terminal(stdout);
    show_thinking = options.show_thinking.value_or(terminal_);
    reset();
  }

  void reset() {
    messages_.clear();
    if (!options_.system.empty())
      messages_.push_back(boost::json::object{{"role", "system"}, {"content", options_.system}});
  }

  // Asks and prints the answer as it comes. False when there was none to the end.
  bool ask(const std::string& question);

  bool show_thinking = true;

 private:
  [[nodiscard]] std::string request_json() const;
  void print_delta(const ChatDelta& delta);
  void set_part(int part);
  void print_end(const ChatAnswer& answer, bool cancelled, double elapsed_s) const;

  HttpClient& client_;
  std::string model_;
  const ChatOptions& options_;
  boost::json::array messages_;
  bool terminal_ = false;
  int part_ = 0;  // what was printed last: 0 nothing, 1 thinking, 2 answer, 3 a tool call
};

bool Conversation::ask(const std::string& question) {
  messages_.push_back(boost::json::object{{"role", "user"}, {"content", question}});
  part_ = 0;
  ChatStream stream([this](const ChatDelta& delta) { print_delta(delta); });
  const auto start = std::chrono::steady_clock::now();
  HttpReply reply;
  std::string error;
  answering_client = &client_;
  try {
    reply = client_.post_stream("/v1/chat/completions", request_json(),
                                [&](std::string_view piece) { stream.push(piece); });
  } catch (const HttpError& http_error) {
    error = http_error.what();
  }
  answering_client = nullptr;
  set_part(0);
  const ChatAnswer& answer = stream.answer();
  if (error.empty() && !reply.cancelled) {
    if (reply.status != 200)
      error = fmt::format("the server says {}: {}", reply.status, error_message(reply.body));
    else if (!answer.error.empty())
      error = answer.error;
    else if (answer.finish_reason.empty())
      error = "the answer ended without a finish_reason";
  }
  const double elapsed_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (error.empty()) print_end(answer, reply.cancelled, elapsed_s);
  if (!error.empty()) fmt::print(stderr, "tandem: error: {}\n", error);
  // Half an answer stays in the conversation; a question without any is taken back.
  if (answer.content.empty())
    messages_.pop_back();
  else
    messages_.push_back(boost::json::object{{"role", "assistant"}, {"content", answer.content}});
  return error.empty() && !reply.cancelled;
}

std::string Conversation::request_json() const {
  boost::json::object request{{"model", model_},
                              {"messages", messages_},
                              {"stream", true},
                              {"stream_options", {{"include_usage", true}}}};
  if (options_.temperature) request["temperature"] = *options_.temperature;
  if (options_.seed) request["seed"] = *options_.seed;
  if (options_.max_tokens) request["max_tokens"] = *options_.max_tokens;
  return boost::json::serialize(request);
}

void Conversation::print_delta(const ChatDelta& delta) {
  if (!delta.reasoning.empty() && show_thinking) {
    set_part(1);
    fmt::print("{}", delta.reasoning);
  }
  if (!delta.content.empty()) {
    set_part(2);
    fmt::print("{}", delta.content);
  }
  if (!delta.tool_call.empty()) {
    set_part(3);
    fmt::print("{}", delta.tool_call);
  }
  std::fflush(stdout);
}

// Parts stand on lines of their own; thinking is dimmed where the terminal can.
void Conversation::set_part(int part) {
  if (part == part_) return;
  if (terminal_ && part_ == 1) fmt::print("\x1b[0m");
  if (part_ != 0) fmt::print("\n");
  if (terminal_ && part == 1) fmt::print("\x1b[2m");
  if (part == 3) fmt::print("calls ");
  part_ = part;
  std::fflush(stdout);
}

void Conversation::print_end(const ChatAnswer& answer, bool cancelled, double elapsed_s) const {
  if (cancelled) fmt::print("(stopped)\n");
  if (answer.finish_reason == "length") fmt::print(stderr, "(cut: the token limit was reached)\n");
  if (!terminal_ || cancelled || answer.completion_tokens <= 0) return;
  const int64_t thinking = answer.reasoning_tokens > 0 ? answer.reasoning_tokens : 0;
  fmt::print("\x1b[2m[{} tokens{}, {:.1f} tok/s]\x1b[0m\n", answer.completion_tokens,
             thinking > 0 ? fmt::format(", {} of them thinking", thinking) : "",
             static_cast<double>(answer.completion_tokens) / elapsed_s);
}

// The first model that the server lists.
std::string find_model(HttpClient& client) {
  const HttpReply reply = client.get("/v1/models");
  if (reply.status == 401)
    throw ConfigError(client.url().text() +
                      " asks for a key; give it by --api-key or TANDEM_API_KEY");
  if (reply.status != 200)
    throw ConfigError(fmt::format("{} says {}: {}", client.url().text(), reply.status,
                                  error_message(reply.body)));
  try {
    const boost::json::value json = boost::json::parse(reply.body);
    return std::string(json.at("data").at(0).at("id").as_string());
  } catch (const std::exception&) {
    throw ConfigError(client.url().text() +
                      ": GET /v1/models names no model; is it an OpenAI API?");
  }
}

constexpr const char* kHelp =
    "  /help       this text\n"
    "  /reset      forget the conversation\n"
    "  /thinking   show or hide the thinking\n"
    "  /exit       leave (so does Ctrl-D)\n"
    "Ctrl-C stops an answer.\n";

// False: leave.
bool run_slash_command(const std::string& line, Conversation& conversation) {
  if (line == "/exit" || line == "/quit") return false;
  if (line == "/reset") {
    conversation.reset();
    fmt::print("The conversation is forgotten.\n");
  } else if (line == "/thinking") {
    conversation.show_thinking = !conversation.show_thinking;
    fmt::print("Thinking is {}.\n", conversation.show_thinking ? "shown" : "hidden");
  } else {
    if (line != "/help") fmt::print("{}: no such command.\n", line);
    fmt::print("{}", kHelp);
  }
  return true;
}

int run_repl(Conversation& conversation) {
  const bool interactive = isatty(STDIN_FILENO) != 0;
  LineInput input;
  std::string line;
  bool all_answered = true;
  for (;;) {
    if (interactive) {
      fmt::print("> ");
      std::fflush(stdout);
    }
    const LineInput::Event event = input.read_line(line);
    if (event == LineInput::Event::kInterrupted) {
      if (!interactive) return 130;
      fmt::print("\n(/exit or Ctrl-D leaves)\n");
      continue;
    }
    if (event == LineInput::Event::kEnd) {
      if (interactive) fmt::print("\n");
      break;
    }
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    if (line.front() == '/') {
      if (!run_slash_command(line, conversation)) break;
      continue;
    }
    if (!conversation.ask(line)) all_answered = false;
    if (interactive) fmt::print("\n");
  }
  return all_answered || interactive ? 0 : 1;
}

std::unique_ptr<Serving> start_server(const ChatOptions& options, const ModelFactory& factory) {
  ServeOptions serve;
  serve.model = options.model;
  serve.server.port = 0;
  serve.max_sequences = 4;
  serve.kv_host_size_bytes = 0;  // one conversation stays in the KV cache
  auto serving = std::make_unique<Serving>(serve);
  if (serving->is_demo())
    fmt::print(stderr, "No server at {}: answering here, with {}.\n", kUsualUrl, kDemoModelNote);
  ProgressBar bar(stderr, "loading");
  serving->load(factory, [&](const Progress& progress) { bar.update(progress); }, {});
  bar.finish();
  return serving;
}

bool server_answers(const std::string& url) {
  try {
    HttpClient client(parse_server_url(url), "");
    return client.get("/health").status != 0;
  } catch (const HttpError&) {
    return false;
  }
}

}  // namespace

int run_chat(const ChatOptions& options, const ModelFactory& factory) {
  std::signal(SIGPIPE, SIG_IGN);
  std::string url = options.url;
  if (url.empty() && options.model.model_dir.empty() && server_answers(kUsualUrl)) url = kUsualUrl;
  std::unique_ptr<Serving> serving;
  if (url.empty()) {
    serving = start_server(options, factory);
    url = serving->url();
  }
  HttpClient client(parse_server_url(url), serving ? "" : options.api_key);
  const std::string model = find_model(client);
  catch_interrupt();
  Conversation conversation(client, model, options);
  if (options.has_prompt) {
    const std::string prompt = options.prompt == "-" ? LineInput().read_all() : options.prompt;
    return conversation.ask(prompt) ? 0 : 1;
  }
  if (isatty(STDIN_FILENO) != 0)
    fmt::print("Talking to {} at {}. /help lists commands, Ctrl-D leaves.\n\n", model, url);
  return run_repl(conversation);
}

}  // namespace tandem::cli
