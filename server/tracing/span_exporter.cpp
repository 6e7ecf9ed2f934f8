#include "server/tracing/span_exporter.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <boost/url/parse.hpp>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/errors.h"
#include "server/http/json_writer.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr std::chrono::seconds kPostTime{10};
constexpr std::chrono::seconds kLastPostTime{2};
constexpr std::chrono::milliseconds kGatherTime{500};  // spans that end together travel together
constexpr size_t kMaxSpansOfPost = 512;

struct Target {
  std::string host, port, authority;
  std::string path, query;    // percent-encoded; the query with its '?'
  std::string authorization;  // "": none

  // Without what may be secret.
  [[nodiscard]] std::string text() const { return "http://" + authority + path; }
};

// As RFC 7617 has it.
std::string basic_credentials(std::string_view user_and_password) {
  std::string encoded((user_and_password.size() + 2) / 3 * 4 + 1, '\0');
  const int num_chars =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(encoded.data()),
                      reinterpret_cast<const unsigned char*>(user_and_password.data()),
                      static_cast<int>(user_and_password.size()));
  encoded.resize(static_cast<size_t>(num_chars));  // without the NUL
  return "Basic " + encoded;
}

Target target_of(const std::string& text) {
  const auto url = boost::urls::parse_uri(text);
  if (!url || url->scheme() != "http" || url->host().empty()) {
    throw ConfigError(fmt::format(
        "--otlp-traces-endpoint: expected http://HOST[:PORT][/PATH], got \"{}\"", text));
  }
  const std::string path(url->encoded_path());
  const std::string port = url->port().empty() ? "4318" : std::string(url->port());
  return {.host = url->host_address(),
          .port = port,
          // An IPv6 address stands in brackets here.
          .authority = std::string(url->encoded_host()) + ":" + port,
          .path = path.empty() || path == "/" ? "/v1/traces" : path,
          .query = url->has_query() ? "?" + std::string(url->encoded_query()) : "",
          .authorization =
              url->has_userinfo() ? basic_credentials(url->user() + ":" + url->password()) : ""};
}

// Throws what Asio throws, and std::runtime_error for a status that is no success.
asio::awaitable<void> post(Target target, std::string body, std::chrono::seconds time) {
  const auto executor = co_await asio::this_coro::executor;
  asio::ip::tcp::resolver resolver(executor);
  const auto addresses =
      co_await resolver.async_resolve(target.host, target.port, asio::use_awaitable);
  beast::tcp_stream stream(executor);
  stream.expires_after(time);
  co_await stream.async_connect(addresses, asio::use_awaitable);
  http::request<http::string_body> request(http::verb::post, target.path + target.query, 11);
  request.set(http::field::host, target.authority);
  if (!target.authorization.empty()) {
    request.set(http::field::authorization, target.authorization);
  }
  request.set(http::field::content_type, "application/json");
  request.set(http::field::connection, "close");
  request.body() = std::move(body);
  request.prepare_payload();
  co_await http::async_write(stream, request, asio::use_awaitable);
  beast::flat_buffer buffer;
  http::response<http::string_body> response;
  co_await http::async_read(stream, buffer, response, asio::use_awaitable);
  if (response.result_int() / 100 != 2) {
    throw std::runtime_error(fmt::format("the collector answered {}", response.result_int()));
  }
}

}  // namespace

struct SpanExporter::Impl {
  using Clock = std::chrono::steady_clock;

  const Options options;
  const Target target;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> spans;
  bool stopping = false;
  Clock::time_point next_warning;  // of the thread
  std::thread thread;

  explicit Impl(Options options_in)
      : options(std::move(options_in)), target(target_of(options.url)) {}
  void run();
  void deliver(const std::vector<std::string>& batch, std::chrono::seconds time);
  [[nodiscard]] std::string document(const std::vector<std::string>& batch) const;
  void dropped(int64_t num_spans) const {
    if (options.on_dropped) options.on_dropped(num_spans);
  }
};

std::string SpanExporter::Impl::document(const std::vector<std::string>& batch) const {
  std::string text = R"({"resourceSpans":[{"resource":{"attributes":[{"key":"service.name",)"
                     R"("value":{"stringValue":)";
  append_json_string(text, options.service_name);
  text += R"(}}]},"scopeSpans":[{"scope":{"name":"tandem"},"spans":[)";
  for (const std::string& span : batch) {
    if (&span != &batch.front()) text += ',';
    text += span;
  }
  return text + "]}]}]}";
}

void SpanExporter::Impl::deliver(const std::vector<std::string>& batch, std::chrono::seconds time) {
  std::string failure;
  asio::io_context io;
  asio::co_spawn(io, post(target, document(batch), time), [&](const std::exception_ptr& error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const boost::system::system_error& what) {
      failure = what.code().message();  // without the place in Asio
    } catch (const std::exception& what) {
      failure = what.what();
    }
  });
  // The resolver has no deadline of its own.
  if (io.run_for(time), !io.stopped()) failure = "no answer in time";
  if (failure.empty()) return;
  dropped(static_cast<int64_t>(batch.size()));
  const auto now = Clock::now();
  if (now < next_warning) return;
  next_warning = now + std::chrono::minutes(1);
  spdlog::warn("--otlp-traces-endpoint {}: {} spans lost: {}", target.text(), batch.size(),
               failure);
}

void SpanExporter::Impl::run() {
  while (true) {
    std::vector<std::string> batch;
    bool is_last = false;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stopping || !spans.empty(); });
      if (!stopping) changed.wait_for(lock, kGatherTime, [&] { return stopping; });
      const size_t num_taken = std::min(spans.size(), kMaxSpansOfPost);
      const auto taken_end = spans.begin() + static_cast<std::ptrdiff_t>(num_taken);
      batch.assign(std::make_move_iterator(spans.begin()), std::make_move_iterator(taken_end));
      spans.erase(spans.begin(), taken_end);
      is_last = stopping;
    }
    if (!batch.empty()) deliver(batch, is_last ? kLastPostTime : kPostTime);
    if (!is_last) continue;
    const std::lock_guard lock(mutex);
    dropped(static_cast<int64_t>(spans.size()));
    return;
  }
}

SpanExporter::SpanExporter(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {
  impl_->thread = std::thread([exporter = impl_.get()] { exporter->run(); });
}

SpanExporter::~SpanExporter() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->changed.notify_one();
  impl_->thread.join();
}

void SpanExporter::send(std::string span_json) {
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->spans.size() < kMaxWaitingSpans) {
      impl_->spans.push_back(std::move(span_json));
      impl_->changed.notify_one();
      return;
    }
  }
  impl_->dropped(1);
}

}  // namespace tandem::server
