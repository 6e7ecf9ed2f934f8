// TLS and Unix sockets: the same answers over other bytes.
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "runtime/base/errors.h"
#include "tests/runtime/model/temp_dir.h"
#include "tests/server/server_fixture.h"
#include "tests/server/tls_certificate.h"

namespace tandem::tests {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using std::chrono::milliseconds;
using test::TempDir;

constexpr const char* kHealth = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

std::string chat_request(std::string_view extra, bool close) {
  const std::string body = chat_body("go", extra);
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " +
         std::to_string(body.size()) + (close ? "\r\nConnection: close" : "") + "\r\n\r\n" + body;
}

template <typename Stream>
std::string read_to_end(Stream& stream) {
  std::string all;
  boost::system::error_code code;
  asio::read(stream, asio::dynamic_buffer(all), code);
  return all;
}

ServerSetup tls_setup(const TempDir& folder) {
  const TlsFiles files = write_certificate(folder.path().string());
  ServerSetup setup{.scripts = {{"go", "0123456789", true}, {"", "Hello!"}}};
  setup.options.tls_certificate_path = files.certificate_path;
  setup.options.tls_private_key_path = files.private_key_path;
  return setup;
}

class TlsClient {
 public:
  TlsClient(const ServerFixture& fixture, const server::ServerOptions& options)
      : context_(asio::ssl::context::tls_client), stream_(io_, context_) {
    context_.load_verify_file(options.tls_certificate_path);
    stream_.set_verify_mode(asio::ssl::verify_peer);
    stream_.lowest_layer().connect({asio::ip::make_address("127.0.0.1"), fixture.server.port()});
    stream_.handshake(asio::ssl::stream_base::client);
  }
  void send(std::string_view text) { asio::write(stream_, asio::buffer(text.data(), text.size())); }
  std::string read_to_end() { return tests::read_to_end(stream_); }
  std::string read_some() {
    std::string bytes(16 << 10, '\0');
    bytes.resize(stream_.read_some(asio::buffer(bytes)));
    return bytes;
  }
  void vanish() { stream_.lowest_layer().close(); }

 private:
  asio::io_context io_;
  asio::ssl::context context_;
  asio::ssl::stream<tcp::socket> stream_;
};

TEST_CASE("TLS carries answers and streams, one after the other", "[server][network]") {
  const TempDir folder;
  const ServerSetup setup = tls_setup(folder);
  ServerFixture fixture(setup);
  TlsClient client(fixture, setup.options);
  client.send(chat_request(R"("stream":true,"max_tokens":500)", false));
  std::string streamed;
  while (streamed.find("0\r\n\r\n") == std::string::npos) streamed += client.read_some();
  CHECK(streamed.starts_with("HTTP/1.1 200"));
  CHECK(streamed.find("[DONE]") != std::string::npos);
  client.send(kHealth);
  const std::string health = client.read_to_end();
  CHECK(health.starts_with("HTTP/1.1 200"));
  CHECK(health.find("\"status\":\"ok\"") != std::string::npos);
}

TEST_CASE("a client that leaves a TLS stream stops the generation", "[server][network]") {
  const TempDir folder;
  const ServerSetup setup = tls_setup(folder);
  ServerFixture fixture(setup);
  fixture.model.set_step_time(milliseconds(1));
  TlsClient client(fixture, setup.options);
  client.send(chat_request(R"("stream":true)", false));
  CHECK(client.read_some().starts_with("HTTP/1.1 200"));
  client.vanish();
  CHECK(eventually([&] { return fixture.engine.stats().num_aborted == 1; }));
}

TEST_CASE("what speaks no TLS is dropped and holds up nobody", "[server][network]") {
  const TempDir folder;
  ServerSetup setup = tls_setup(folder);
  setup.options.header_timeout = std::chrono::seconds(2);
  ServerFixture fixture(setup);
  Client plain(fixture);
  Client silent(fixture);
  plain.send(kHealth);
  CHECK(plain.read_to_end().find("HTTP") == std::string::npos);
  TlsClient client(fixture, setup.options);
  client.send(kHealth);
  CHECK(client.read_to_end().starts_with("HTTP/1.1 200"));
  CHECK(silent.closed_by_server());
}

TEST_CASE("certificate files that are none are named", "[server][network]") {
  const TempDir folder;
  ServerSetup setup = tls_setup(folder);
  const auto message_of = [&] {
    try {
      const server::Server server(setup.options);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string certificate = setup.options.tls_certificate_path;
  setup.options.port = 0;
  setup.options.tls_certificate_path = setup.options.tls_private_key_path;
  CHECK(message_of().starts_with("TLS certificate " + setup.options.tls_certificate_path));
  setup.options.tls_certificate_path = certificate;
  setup.options.tls_private_key_path = "/nowhere/key.pem";
  CHECK(message_of().starts_with("TLS key /nowhere/key.pem"));
  const TempDir other;  // a key of another certificate
  setup.options.tls_private_key_path = write_certificate(other.path().string()).private_key_path;
  CHECK(message_of().starts_with("TLS key " + setup.options.tls_private_key_path));
}

TEST_CASE("no host is not every interface, brackets are those of an IPv6 address",
          "[server][network]") {
  const auto message_of = [](const std::string& host) {
    server::ServerOptions options;
    options.host = host;
    options.port = 0;
    try {
      const server::Server server(options);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message_of("") == "--host: expected an address or a name, got ''");
  CHECK(message_of("[]").starts_with("--host"));
  CHECK(message_of("[::1]").find("not found") == std::string::npos);  // there may be no IPv6
  CHECK(message_of("[127.0.0.1]").empty());
}

TEST_CASE("a Unix socket serves, and goes with its server", "[server][network]") {
  const TempDir folder;
  ServerSetup setup;
  setup.options.uds_path = (folder.path() / "tandem.sock").string();
  {  // left behind by a server that was killed
    asio::io_context io;
    asio::local::stream_protocol::acceptor stale(io, {setup.options.uds_path});
  }
  {
    ServerFixture fixture(setup);
    CHECK(fixture.server.port() == 0);
    asio::io_context io;
    asio::local::stream_protocol::socket socket(io);
    socket.connect({setup.options.uds_path});
    asio::write(socket, asio::buffer(chat_request(R"("stream":true)", true)));
    CHECK(read_to_end(socket).find("[DONE]") != std::string::npos);
    CHECK_THROWS_AS(server::Server(setup.options), ConfigError);  // it is in use
  }
  CHECK_FALSE(std::filesystem::exists(setup.options.uds_path));
}

TEST_CASE("a Unix socket takes no file's place and no endless name", "[server][network]") {
  const TempDir folder;
  server::ServerOptions options;
  options.uds_path = (folder.path() / "precious").string();
  std::ofstream(options.uds_path) << "data";
  CHECK_THROWS_AS(server::Server(options), ConfigError);
  CHECK(std::filesystem::file_size(options.uds_path) == 4);
  options.uds_path = (folder.path() / std::string(150, 'x')).string();
  CHECK_THROWS_AS(server::Server(options), ConfigError);
}

}  // namespace
}  // namespace tandem::tests
