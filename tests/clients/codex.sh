#!/usr/bin/env bash
# Codex CLI: one question that takes a call of its shell tool. Needs CODEX, TANDEM_BASE_URL, TANDEM_KEY, TANDEM_MODEL.
set -euo pipefail

fail() {
  echo "failed: $*" >&2
  exit 1
}
CODEX_HOME=$(mktemp -d)
export CODEX_HOME
work=$(mktemp -d)
trap 'rm -rf "$CODEX_HOME" "$work"' EXIT
cat > "$CODEX_HOME/config.toml" <<END
model = "$TANDEM_MODEL"
model_provider = "tandem"
[model_providers.tandem]
name = "tandem"
base_url = "$TANDEM_BASE_URL"
env_key = "TANDEM_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
END
cd "$work"
output=$("$CODEX" exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox --json "shell-question" < /dev/null 2>&1) ||
  fail "codex exec: $output"
echo "$output"
case $output in *'tandem-tool-output'*) ;; *) fail "the tool did not run: $output" ;; esac
case $output in *'"text":"The shell has answered."'*) ;; *) fail "no answer: $output" ;; esac
