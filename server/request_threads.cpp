#include "server/request_threads.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace tandem::server {

namespace asio = boost::asio;

asio::awaitable<void> RequestThreads::run(Kind kind, const std::function<void()>& work) {
  asio::thread_pool& pool = kind == Kind::kBody ? reading_ : preparing_;
  // Both coroutines live until `work` is done: the references stay good.
  auto run_here = [this, &work]() -> asio::awaitable<void> {
    if (!dropping_) work();
    co_return;
  };
  co_await asio::co_spawn(pool.get_executor(), run_here, asio::use_awaitable);
}

void RequestThreads::join() {
  reading_.join();
  preparing_.join();
}

}  // namespace tandem::server
