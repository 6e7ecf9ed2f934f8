// Chat, tokenize and template bodies of any bytes: an answer or an error in valid JSON, no crash.
#include <boost/json/parse.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/base/check.h"
#include "server/openai/chat_completion.h"
#include "server/openai/tokenize.h"

namespace tandem {
namespace {

Tokenizer byte_tokenizer() {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string lines;
  for (unsigned byte = 0; byte < 256; ++byte) {
    lines += kDigits[byte >> 2];
    lines += kDigits[(byte & 3) << 4];
    lines += "== ";
    lines += std::to_string(byte);
    lines += '\n';
  }
  return Tokenizer::parse(lines, "", 512, "fuzz");
}

const server::ServedModel& served_model() {
  static const Tokenizer tokenizer = byte_tokenizer();
  static const server::ServedModel model = [] {
    server::ServedModel served;
    served.tokenizer = &tokenizer;
    served.vocab_size = 512;
    served.max_context_tokens = 1 << 16;
    served.names = {"fuzz"};
    served.stop_token_ids = {tokenizer.specials().im_end};
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

// Plays the prompt back as if the model had said it, in both forms of answer.
void check_completion(const server::PreparedChat& chat) {
  const server::ServedModel& model = served_model();
  const GenerationRequest request = server::generation_request(chat, model, 0);
  TANDEM_CHECK(request.max_new_tokens >= 1, "room for an answer");
  server::ChatCompletion completion(chat, model);
  std::string frames;
  for (const int32_t id : chat.prompt_ids) {
    TokenEvent event;
    event.token_id = id;
    if (completion.push(0, event, frames)) break;
  }
  TokenEvent end;
  end.kind = TokenEvent::Kind::kFinished;
  for (int32_t choice_idx = 0; choice_idx < chat.request.n; ++choice_idx) {
    static_cast<void>(completion.push(choice_idx, end, frames));
  }
  TANDEM_CHECK(completion.finished(), "every choice has ended");
  if (!chat.request.stream) return check_json(completion.body());
  completion.append_stream_end(frames);
  for (std::string_view rest = frames; !rest.empty();) {
    const size_t frame_end = rest.find("\n\n");
    TANDEM_CHECK(frame_end != std::string_view::npos && rest.starts_with("data: "), "a frame");
    const std::string_view data = rest.substr(6, frame_end - 6);
    if (data != "[DONE]") check_json(data);
    rest.remove_prefix(frame_end + 2);
  }
}

}  // namespace
}  // namespace tandem

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem;  // NOLINT(google-build-using-namespace)
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto chat = server::prepare_chat(body, served_model());
  if (chat) {
    check_completion(*chat);
  } else {
    check_json(server::error_json(chat.error()));
  }
  check_answer(server::tokenize_json(body, served_model()));
  check_answer(server::detokenize_json(body, served_model()));
  check_answer(server::apply_template_json(body, served_model()));
  return 0;
}
