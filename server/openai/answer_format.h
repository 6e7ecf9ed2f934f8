// What a request asks of its answer's form: response_format and the guided_* keys of other
// servers, all aliases of one AnswerFormat (serving/spec.md §4.2).
#pragma once

#include "server/chat/chat_request.h"
#include "server/chat/json_fields.h"

namespace tandem::server {

// response_format, structured_outputs, guided_json, guided_regex, guided_choice, guided_grammar,
// nvext.guided_*, regex, ebnf: at most one of them.
void read_answer_format(FieldReader& fields, GenerationOptions& request);

}  // namespace tandem::server
