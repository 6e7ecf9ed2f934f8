#!/usr/bin/env bash
# Claude Code: one question that takes a call of its Bash tool, and a second turn over cached pages. Needs CLAUDE, TANDEM_URL,
# TANDEM_KEY, TANDEM_MODEL.
set -euo pipefail

fail() {
  echo "failed: $*" >&2
  exit 1
}
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"
output=$(env -i PATH="$PATH" HOME="$home" IS_SANDBOX=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 \
  ANTHROPIC_BASE_URL="$TANDEM_URL" ANTHROPIC_API_KEY="$TANDEM_KEY" ANTHROPIC_MODEL="$TANDEM_MODEL" \
  "$CLAUDE" -p "tool-question: run it" --allowedTools Bash --output-format stream-json --verbose < /dev/null 2>&1) ||
  fail "claude: $output"
echo "$output"
case $output in *'"content":"tandem-tool-output"'*) ;; *) fail "the tool did not run" ;; esac
case $output in *'"result":"The shell has answered."'*) ;; *) fail "no answer" ;; esac
case $output in *'"cacheReadInputTokens":0,'*) fail "the second turn found nothing of the first" ;; esac
