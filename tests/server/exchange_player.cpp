#include "tests/server/exchange_player.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <catch2/catch_test_macros.hpp>
#include <memory>

#include "tests/server/scripted_model.h"

namespace tandem::tests {

namespace json = boost::json;

namespace {

std::unique_ptr<server::Exchange> open_body(server::OpenExchange open,
                                            const server::ServedModel& model,
                                            const json::value& body) {
  auto opened = open(json::serialize(body), model);
  INFO((opened ? "" : opened.error().message));
  REQUIRE(opened.ok());
  return std::move(*opened);
}

TokenEvent token_event(int32_t id) {
  TokenEvent event;
  event.token_id = id;
  event.logprob = -0.25f;
  event.top_logprobs = {{id, -0.25f}, {'x', -2.0f}};
  return event;
}

TokenEvent finished_event(size_t num_tokens, FinishReason reason, const PlayOptions& options) {
  TokenEvent event;
  event.kind = TokenEvent::Kind::kFinished;
  event.finish_reason = reason;
  if (reason == FinishReason::kAborted) event.error = options.error;
  event.prompt_tokens = 11;
  event.cached_tokens = options.cached_tokens;
  event.completion_tokens = static_cast<int32_t>(num_tokens) + 1;
  return event;
}

// The answer's frames; the body in `whole` when it is not streamed.
std::string play_once(server::Exchange& exchange,
                      std::string_view answer,
                      const PlayOptions& options) {
  REQUIRE(exchange.take_requests().size() == 1);
  CHECK(exchange.take_requests().empty());
  const auto ids = byte_tokenizer().encode(answer, Tokenizer::Specials::kAsTokens);
  std::string frames;
  FinishReason reason = options.reason;
  for (const int32_t id : ids) {
    if (!exchange.push(0, token_event(id), frames)) continue;
    CHECK(reason != FinishReason::kAborted);  // said once
    reason = FinishReason::kAborted;  // enough has come: the engine is told, and is ahead by then
  }
  CHECK_FALSE(exchange.finished());
  CHECK_FALSE(exchange.push(0, finished_event(ids.size(), reason, options), frames));
  CHECK(exchange.finished());
  return frames;
}

}  // namespace

server::ServedModel byte_model() {
  server::ServedModel model;
  model.tokenizer = &byte_tokenizer();
  model.vocab_size = byte_tokenizer().vocab_size();
  model.max_context_tokens = 16384;
  model.names = {"tiny", "org/tiny-kimi"};
  model.stop_token_ids = {byte_tokenizer().specials().im_end};
  return model;
}

std::vector<NamedEvent> named_events(std::string_view frames) {
  std::vector<NamedEvent> events;
  while (!frames.empty()) {
    const size_t end = frames.find("\n\n");
    REQUIRE(end != std::string_view::npos);
    std::string_view frame = frames.substr(0, end);
    frames.remove_prefix(end + 2);
    if (frame.starts_with(':')) continue;
    NamedEvent event;
    if (frame.starts_with("event: ")) {
      const size_t line_end = frame.find('\n');
      REQUIRE(line_end != std::string_view::npos);
      event.name = frame.substr(7, line_end - 7);
      frame.remove_prefix(line_end + 1);
    }
    REQUIRE(frame.starts_with("data: "));
    REQUIRE(frame.find('\n') == std::string_view::npos);
    frame.remove_prefix(6);
    if (frame == "[DONE]") continue;
    boost::system::error_code code;
    event.data = json::parse(json::string_view(frame.data(), frame.size()), code);
    INFO(frame);
    REQUIRE_FALSE(code);
    events.push_back(std::move(event));
  }
  return events;
}

Playback play_exchange(server::OpenExchange open,
                       const json::value& body,
                       std::string_view answer,
                       const PlayOptions& options) {
  return play_exchange(open, byte_model(), body, answer, options);
}

Playback play_exchange(server::OpenExchange open,
                       const server::ServedModel& model,
                       const json::value& body,
                       std::string_view answer,
                       const PlayOptions& options) {
  Playback playback;
  json::object request = body.as_object();
  request["stream"] = false;
  const auto whole = open_body(open, model, request);
  CHECK(play_once(*whole, answer, options).empty());
  CHECK_FALSE(whole->streams());
  if (!whole->error()) playback.whole = json::parse(whole->body());

  request["stream"] = true;
  const auto streamed = open_body(open, model, request);
  playback.frames = play_once(*streamed, answer, options);
  CHECK(streamed->streams());
  streamed->append_stream_end(playback.frames);
  playback.events = named_events(playback.frames);
  return playback;
}

std::vector<int32_t> prompt_of(server::OpenExchange open,
                               const server::ServedModel& model,
                               const json::value& body) {
  auto requests = open_body(open, model, body)->take_requests();
  REQUIRE(requests.size() == 1);
  return std::move(requests.front().prompt_ids);
}

}  // namespace tandem::tests
