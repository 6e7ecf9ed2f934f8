// A file of lines that are written behind the back of those who hand them in.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace tandem::server {

class RequestLog {
 public:
  // Throws ConfigError when the file cannot be opened for appending. Starts the thread.
  // `on_dropped`: for every line that is lost, on any thread.
  explicit RequestLog(std::string path, std::function<void()> on_dropped = {});
  ~RequestLog();  // writes what waits
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  // The line, without its break, is made on the log's thread from about `size_bytes` that wait
  // until then. Thread-safe, never waits for the disk. False: too much waits, the line is dropped.
  bool write(size_t size_bytes, std::function<std::string()> make_line);

  static constexpr size_t kMaxWaitingLines = 4096;
  static constexpr size_t kMaxWaitingBytes = size_t{64} << 20;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
