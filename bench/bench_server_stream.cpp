// What the server costs beside the model: CPU time of the process for each streamed token.
//   bench_server_stream [--repeats N] [--json]
// Clients are another process. A fake model plays an endless answer at the pace of a fast machine,
// so that every token is a step, a frame and a write of its own; the time that it takes itself is
// measured and left out. What remains is scheduling, sampling, answer parsing, JSON, HTTP and the
// kernel's part of sending: limit 100 us.
#include <netinet/in.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bench/support/report.h"
#include "bench/support/timing.h"
#include "runtime/engine/engine.h"
#include "runtime/model/model_config.h"
#include "runtime/topology/cpu_isa.h"
#include "server/server.h"
#include "server/serving_model.h"
#include "tests/support/dialogue_model.h"

namespace tandem::bench {
namespace {

constexpr double kLimitUs = 100.0;

struct Options {
  int num_repeats = 5;
  bool json = false;
};

// One load: `num_streams` answers of `num_tokens`, a step every `step_us`.
struct Load {
  int num_streams = 0;
  int num_tokens = 0;
  int step_us = 0;
};
constexpr std::array<Load, 3> kLoads = {Load{1, 1000, 1000}, {32, 200, 5000}, {200, 50, 30000}};

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Adds up the CPU time of the model's own steps.
class TimedModel : public tests::DialogueModel {
 public:
  using DialogueModel::DialogueModel;
  void forward(const Batch& batch, MatrixView<float> logits) override {
    const double begin_s = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    DialogueModel::forward(batch, logits);
    model_s_ = model_s_ + seconds_of(CLOCK_THREAD_CPUTIME_ID) - begin_s;
  }
  [[nodiscard]] double model_s() const { return model_s_; }

 private:
  std::atomic<double> model_s_{0.0};
};

// ---- the client's process ------------------------------------------------------------------

struct Order {
  uint16_t port = 0;
  Load load;
};

int open_stream(const Order& order) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(order.port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return -1;
  const std::string body =
      R"({"messages":[{"role":"user","content":"go"}],"stream":true,"temperature":0,)"
      R"("max_tokens":)" +
      std::to_string(order.load.num_tokens) + "}";
  const std::string request =
      "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
      "Content-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  return send(fd, request.data(), request.size(), 0) == static_cast<ssize_t>(request.size()) ? fd
                                                                                             : -1;
}

// Reads all streams to their ends; the number of those that ended well.
int run_clients(const Order& order) {
  std::vector<pollfd> streams;
  std::vector<std::string> tails(static_cast<size_t>(order.load.num_streams));
  for (int idx = 0; idx < order.load.num_streams; ++idx) {
    streams.push_back({open_stream(order), POLLIN, 0});
  }
  int num_complete = 0;
  int num_open = order.load.num_streams;
  std::array<char, 1 << 16> bytes;
  while (num_open > 0 && poll(streams.data(), streams.size(), 60'000) > 0) {
    for (size_t idx = 0; idx < streams.size(); ++idx) {
      if (streams[idx].fd < 0 || streams[idx].revents == 0) continue;
      const ssize_t num_read = recv(streams[idx].fd, bytes.data(), bytes.size(), 0);
      if (num_read > 0) {
        tails[idx].append(bytes.data(), static_cast<size_t>(num_read));
        if (tails[idx].size() > 64) tails[idx].erase(0, tails[idx].size() - 64);
        continue;
      }
      num_complete += tails[idx].find("[DONE]") != std::string::npos ? 1 : 0;
      close(streams[idx].fd);
      streams[idx].fd = -1;
      --num_open;
    }
  }
  return num_complete;
}

[[noreturn]] void serve_orders(int fd) {
  Order order;
  while (read(fd, &order, sizeof order) == static_cast<ssize_t>(sizeof order)) {
    const int num_complete = run_clients(order);
    if (write(fd, &num_complete, sizeof num_complete) < 0) break;
  }
  _exit(0);
}

// ---- the server's process ------------------------------------------------------------------

struct Sample {
  double server_us_per_token = 0.0;
  double model_us_per_token = 0.0;
  double wall_s = 0.0;
};

Sample measure(int orders_fd, const Load& load, uint16_t port, TimedModel& model) {
  const Order order{port, load};
  const double model_begin_s = model.model_s();
  const double cpu_begin_s = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  const double wall_begin_s = seconds_of(CLOCK_MONOTONIC);
  int num_complete = 0;
  if (write(orders_fd, &order, sizeof order) < 0 ||
      read(orders_fd, &num_complete, sizeof num_complete) < 0 || num_complete != load.num_streams) {
    throw std::runtime_error(std::to_string(num_complete) + " of " +
                             std::to_string(load.num_streams) + " streams ended well");
  }
  const double cpu_s = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin_s;
  const double model_s = model.model_s() - model_begin_s;
  const double num_tokens = static_cast<double>(load.num_streams) * load.num_tokens;
  return {.server_us_per_token = 1e6 * (cpu_s - model_s) / num_tokens,
          .model_us_per_token = 1e6 * model_s / num_tokens,
          .wall_s = seconds_of(CLOCK_MONOTONIC) - wall_begin_s};
}

void add_load(Report& report,
              const Options& options,
              int orders_fd,
              const Load& load,
              const Tokenizer& tokenizer,
              const ModelConfig& config) {
  tests::ScriptedAnswer answer;
  answer.say_ids = tokenizer.encode("The quick brown fox. ", Tokenizer::Specials::kAsText);
  answer.repeat = true;
  TimedModel model(tokenizer, {answer}, {.num_kv_pages = 4096, .max_logit_rows = 256});
  model.set_step_time(std::chrono::microseconds(load.step_us));
  Engine engine(model, {.max_sequences = 256});
  server::ServerOptions server_options;
  server_options.port = 0;
  server::Server server(server_options);
  server.start();
  server.set_ready(server::make_serving_model(engine, tokenizer, config));

  measure(orders_fd, load, server.port(), model);  // warms up
  std::vector<double> server_us;
  Sample last;
  for (int repeat = 0; repeat < options.num_repeats; ++repeat) {
    last = measure(orders_fd, load, server.port(), model);
    server_us.push_back(last.server_us_per_token);
  }
  const Timing timing = summarise(server_us);
  const double rate = static_cast<double>(load.num_streams) * load.num_tokens / last.wall_s;
  report.add_row("CPU time of a streamed token, us",
                 {{"streams", int64_t{load.num_streams}},
                  {"tokens/s", Number{rate, 0}},
                  {"median", Number{timing.median_s, 1}},
                  {"p10", Number{timing.p10_s, 1}},
                  {"p90", Number{timing.p90_s, 1}},
                  {"limit", Number{kLimitUs, 0}},
                  {"share %", Number{timing.median_s, 0}},
                  {"model's own", Number{last.model_us_per_token, 1}}});
}

void run(const Options& options, int orders_fd) {
  const std::string model_dir = TANDEM_SOURCE_DIR "/server/demo/model";
  const ModelConfig config = ModelConfig::load(model_dir);
  const Tokenizer tokenizer = Tokenizer::load(model_dir, config.vocab_size);
  const Topology topology = Topology::detect();
  Report report("bench_server_stream", options.json);
  report.add_machine(topology, 2, isa_name(active_isa()));
  for (const Load& load : kLoads) add_load(report, options, orders_fd, load, tokenizer, config);
  report.print();
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  tandem::bench::Options options;
  CLI::App app("Measures what the server costs beside the model", "bench_server_stream");
  app.add_option("--repeats", options.num_repeats, "Runs of each load (default: 5)");
  app.add_flag("--json", options.json, "Print JSON");
  CLI11_PARSE(app, argc, argv);
  int pair[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 1;
  const pid_t child = fork();  // before there are threads
  if (child == 0) {
    close(pair[0]);
    tandem::bench::serve_orders(pair[1]);
  }
  close(pair[1]);
  std::signal(SIGPIPE, SIG_IGN);
  spdlog::set_level(spdlog::level::warn);
  int status = 0;
  try {
    tandem::bench::run(options, pair[0]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_server_stream: error: %s\n", error.what());
    status = 1;
  }
  close(pair[0]);
  waitpid(child, nullptr, 0);
  return status;
}
