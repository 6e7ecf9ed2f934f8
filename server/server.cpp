#include "server/server.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "server/listener.h"
#include "server/request_threads.h"
#include "server/session.h"
#include "server/tls.h"

namespace tandem::server {

namespace asio = boost::asio;

namespace {

// A connection is a descriptor, and the usual limit of 1024 is less than max_connections.
void raise_descriptor_limit(int max_connections) {
  constexpr rlim_t kOwnDescriptors = 256;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = static_cast<rlim_t>(max_connections) + kOwnDescriptors;
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

struct Server::Impl {
  explicit Impl(const ServerOptions& options)
      : state(options),
        tls(options.tls_certificate_path.empty()
                ? nullptr
                : load_tls(options.tls_certificate_path, options.tls_private_key_path)),
        acceptor(bind_listener(io, options)),
        port(port_of(acceptor)) {}
  ~Impl() {
    if (state.options.uds_path.empty()) return;
    std::error_code ignored;
    std::filesystem::remove(state.options.uds_path, ignored);
  }

  void close_acceptor() {
    asio::post(acceptor.get_executor(), [this] {
      boost::system::error_code ignored;
      acceptor.close(ignored);
    });
  }

  // Destroyed from below: first the io_context with all coroutines in it, then what they use.
  ServerState state;
  std::unique_ptr<asio::ssl::context> tls;
  RequestThreads request_threads;
  asio::io_context io;
  Acceptor acceptor;
  uint16_t port;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::vector<std::thread> threads;
  std::mutex stop_mutex;
  bool stopped = false;
};

Server::Server(const ServerOptions& options) : impl_(std::make_unique<Impl>(options)) {}

Server::~Server() { stop(); }

uint16_t Server::port() const { return impl_->port; }

void Server::start() {
  raise_descriptor_limit(impl_->state.options.max_connections);
  impl_->work.emplace(impl_->io.get_executor());
  asio::co_spawn(impl_->acceptor.get_executor(),
                 accept_connections(impl_->acceptor, impl_->io, impl_->tls.get(),
                                    impl_->request_threads, impl_->state),
                 asio::detached);
  const int num_threads = std::max(1, impl_->state.options.num_io_threads);
  for (int thread_idx = 0; thread_idx < num_threads; ++thread_idx) {
    impl_->threads.emplace_back([this] { impl_->io.run(); });
  }
}

void Server::set_loading_progress(double share_done) {
  impl_->state.loading_progress = std::clamp(share_done, 0.0, 1.0);
}

void Server::set_ready(const ServingModel& model) { impl_->state.set_ready(model); }

void Server::set_failed(const std::string& message) { impl_->state.set_failed(message); }

void Server::drain() {
  impl_->state.draining = true;
  impl_->close_acceptor();
  impl_->state.for_each_session([](Session& session) { session.close_if_idle(); });
  impl_->state.end_sleeping_answers();
  if (!impl_->threads.empty() &&
      !impl_->state.wait_until_idle(impl_->state.options.drain_timeout)) {
    spdlog::warn("{} requests were cut off after {} s", impl_->state.num_active_requests(),
                 impl_->state.options.drain_timeout.count());
  }
  stop();
}

// May come from another thread while drain() waits.
void Server::stop() {
  impl_->state.give_up_waiting();
  const std::lock_guard lock(impl_->stop_mutex);
  if (impl_->stopped) return;
  impl_->stopped = true;
  impl_->io.stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->threads.clear();
  // No thread runs a strand any more, so the sockets can be closed from here: before the wait
  // below, as XGrammar cannot be interrupted while it compiles.
  impl_->request_threads.drop_waiting();
  impl_->state.for_each_session([](Session& session) { session.cut(); });
  impl_->request_threads.join();
}

}  // namespace tandem::server
