// Bodies of any bytes in every dialect: an answer or an error in valid JSON, no crash.
#include <boost/json/parse.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/base/check.h"
#include "server/anthropic/messages_exchange.h"
#include "server/chat/key_audit.h"
#include "server/dialects.h"
#include "server/openai/error_body.h"
#include "server/openai/render.h"
#include "server/openai/tokenize.h"
#include "tests/support/byte_vocabulary.h"

namespace tandem {
namespace {

const server::ServedModel& served_model() {
  static const server::ServedModel model = [] {
    server::ServedModel served;
    served.tokenizer = &tests::byte_tokenizer();
    served.vocab_size = tests::kByteVocabSize;
    served.max_context_tokens = 1 << 16;
    served.names = {"fuzz"};
    served.stop_token_ids = {tests::byte_tokenizer().specials().im_end};
    return served;
  }();
  return model;
}

void check_json(std::string_view text) {
  boost::system::error_code code;
  boost::json::parse_options options;
  options.max_depth = 256;
  static_cast<void>(
      boost::json::parse(boost::json::string_view(text.data(), text.size()), code, {}, options));
  TANDEM_CHECK(!code, "an answer that is no JSON");
}

void check_answer(const Result<std::string, server::ApiError>& answer) {
  check_json(answer ? *answer : server::error_json(answer.error()));
}

void check_frames(std::string_view frames) {
  while (!frames.empty()) {
    const size_t frame_end = frames.find("\n\n");
    TANDEM_CHECK(frame_end != std::string_view::npos, "a frame that ends");
    std::string_view frame = frames.substr(0, frame_end);
    frames.remove_prefix(frame_end + 2);
    if (frame.starts_with("event: ")) frame.remove_prefix(frame.find('\n') + 1);
    TANDEM_CHECK(frame.starts_with("data: "), "a frame of data");
    if (frame != "data: [DONE]") check_json(frame.substr(6));
  }
}

// Plays the prompts back as if the model had said them.
void check_exchange(server::Exchange& exchange) {
  int32_t num_choices = 0;
  std::string frames;
  TokenEvent end;
  end.kind = TokenEvent::Kind::kFinished;
  for (auto due = exchange.take_requests(); !due.empty(); due = exchange.take_requests()) {
    for (const GenerationRequest& request : due) {
      TANDEM_CHECK(request.max_new_tokens >= 1, "room for an answer");
      for (const int32_t id : request.prompt_ids) {
        TokenEvent event;
        event.token_id = id;
        if (exchange.push(num_choices, event, frames)) break;
      }
      static_cast<void>(exchange.push(num_choices++, end, frames));
      if (exchange.error()) break;
    }
  }
  TANDEM_CHECK(exchange.finished(), "every choice has ended");
  if (exchange.error()) return;
  if (!exchange.streams()) return check_json(exchange.body());
  exchange.append_stream_end(frames);
  check_frames(frames);
}

void check_dialect(std::string_view body, const server::Dialect& dialect) {
  const auto exchange = dialect.open(body, served_model());
  if (exchange) {
    check_exchange(**exchange);
  } else {
    check_json(dialect.error_json(exchange.error()));
  }
}

}  // namespace
}  // namespace tandem

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;  // NOLINT(google-build-using-namespace)
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  server::KeyAudit audit;  // as a strict server has one
  for (const auto endpoint : {server::Endpoint::kChatCompletions, server::Endpoint::kCompletions,
                              server::Endpoint::kResponses, server::Endpoint::kMessages}) {
    check_dialect(body, server::dialect_of(endpoint));
  }
  check_answer(server::count_tokens_json(body, served_model()));
  check_answer(server::tokenize_json(body, served_model()));
  check_answer(server::detokenize_json(body, served_model()));
  check_answer(server::apply_template_json(body, served_model()));
  check_answer(server::render_chat_json(body, served_model()));
  check_answer(server::render_text_json(body, served_model()));
  return 0;
}
