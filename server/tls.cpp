#include "server/tls.h"

#include <openssl/ssl.h>

#include "runtime/base/errors.h"

namespace tandem::server {

namespace ssl = boost::asio::ssl;

std::unique_ptr<ssl::context> load_tls(const std::string& certificate_path,
                                       const std::string& private_key_path) {
  auto context = std::make_unique<ssl::context>(ssl::context::tls_server);
  context->set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 |
                       ssl::context::no_sslv3 | ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1);
  // An idle connection keeps no record buffers (32 KiB each).
  SSL_CTX_set_mode(context->native_handle(), SSL_MODE_RELEASE_BUFFERS);
  boost::system::error_code code;
  context->use_certificate_chain_file(certificate_path, code);
  if (code) {
    throw ConfigError("TLS certificate " + certificate_path +
                      ": expected a PEM certificate (chain): " + code.message());
  }
  context->use_private_key_file(private_key_path, ssl::context::pem, code);
  if (code) {
    throw ConfigError("TLS key " + private_key_path +
                      ": expected the PEM private key of the certificate: " + code.message());
  }
  return context;
}

}  // namespace tandem::server
