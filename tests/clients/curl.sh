#!/usr/bin/env bash
# Plain curl: models, one answer, a stream, and errors. Needs TANDEM_BASE_URL, TANDEM_KEY, TANDEM_MODEL.
set -euo pipefail

fail() {
  echo "failed: $*" >&2
  exit 1
}
# The model answers by chance: status 3 asks the runner for a second try.
expect_words() {
  case $2 in *"$1"*) ;; *) echo "expected '$1' in: $2" && exit 3 ;; esac
}
post() {
  curl -sS --max-time 120 "$TANDEM_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $TANDEM_KEY" -H 'Content-Type: application/json' "$@"
}
status_of() {
  curl -sS --max-time 60 -o /dev/null -w '%{http_code}' "$@"
}

models=$(curl -sS --max-time 60 -H "Authorization: Bearer $TANDEM_KEY" "$TANDEM_BASE_URL/models")
case $models in *"\"$TANDEM_MODEL\""*) ;; *) fail "the model is not listed: $models" ;; esac

body="{\"model\": \"$TANDEM_MODEL\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]"

answer=$(post -d "$body}")
echo "$answer"
case $answer in *'"object":"chat.completion"'*) ;; *) fail "no chat.completion: $answer" ;; esac
case $answer in *'"finish_reason":"stop"'*) ;; *) fail "no finish_reason stop: $answer" ;; esac
case $answer in *'"reasoning_content":"'*) ;; *) fail "no reasoning_content: $answer" ;; esac
expect_words 'demo model' "$answer"

stream=$(post -N -d "$body, \"stream\": true, \"stream_options\": {\"include_usage\": true}}")
echo "$stream" | tail -n 6
[ "$(grep -c '^data: ' <<<"$stream")" -ge 5 ] || fail "fewer than five events: $stream"
[ "$(grep '^data: ' <<<"$stream" | tail -n 1)" = 'data: [DONE]' ] || fail "no [DONE] at the end"
grep -q '"reasoning_content":"' <<<"$stream" || fail "no reasoning_content in the stream"
grep -q '"finish_reason":"stop"' <<<"$stream" || fail "no finish_reason in the stream"
grep -q '"usage":{' <<<"$stream" || fail "no usage in the stream"

[ "$(status_of "$TANDEM_BASE_URL/models")" = 401 ] || fail "no 401 without a key"
key="Authorization: Bearer $TANDEM_KEY"
url=$TANDEM_BASE_URL/chat/completions
json='Content-Type: application/json'
[ "$(status_of -H "$key" -H "$json" "$url" -d '{"mess')" = 400 ] || fail "no 400 for broken JSON"
[ "$(status_of -H "$key" -H "$json" "$url" -d '{"model": "x"}')" = 400 ] || fail "no 400 without messages"
[ "$(status_of -H "$key" -H "$json" "$url" -d "${body/$TANDEM_MODEL/no-such-model}}")" = 404 ] \
  || fail "no 404 for an unknown model"
[ "$(status_of -H "$key" "$TANDEM_BASE_URL/nothing")" = 404 ] || fail "no 404 for an unknown path"
error=$(curl -sS -H "$key" -H "$json" "$url" -d '{"model": "x"}')
case $error in *'"error":{'*'"message":'*) ;; *) fail "no error object: $error" ;; esac
