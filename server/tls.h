// TLS by certificate files.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>

namespace tandem::server {

// PEM files: the certificate with its chain, and its private key. TLS 1.2 and later. Throws
// ConfigError naming the file.
std::unique_ptr<boost::asio::ssl::context> load_tls(const std::string& certificate_path,
                                                    const std::string& private_key_path);

}  // namespace tandem::server
