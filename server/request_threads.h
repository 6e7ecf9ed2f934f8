// Threads for the parts of requests that would hold up other connections. Each kind of work has
// its own: bodies take milliseconds, and a grammar may take a minute.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/thread_pool.hpp>
#include <functional>

namespace tandem::server {

class RequestThreads {
 public:
  enum class Kind {
    kBody,         // parses and tokenises a large body
    kPreparation,  // Exchange::prepare()
  };

  // Inference has a thread on every core and its steps wait for the slowest, while one compilation
  // runs on up to four threads of XGrammar's. So few; two, since one long compilation should leave
  // a thread to the short ones.
  static constexpr int kNumPreparing = 2;

  // Runs `work` on a thread of its kind, first come, first served, and comes back to the caller's
  // executor.
  boost::asio::awaitable<void> run(Kind kind, const std::function<void()>& work);

  // Once nobody runs the callers' executors any more: what still waits for a thread is not done.
  void drop_waiting() { dropping_ = true; }
  // Waits for what is under way.
  void join();

 private:
  static constexpr int kNumReading = 2;

  std::atomic<bool> dropping_{false};
  boost::asio::thread_pool reading_{kNumReading};
  boost::asio::thread_pool preparing_{kNumPreparing};
};

}  // namespace tandem::server
