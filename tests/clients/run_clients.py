#!/usr/bin/env python3
"""Runs the clients that people use: some against the demo model, some against the scripted server; and a validator of what
random logits call.

    run_clients.py TANDEM SCRIPTED_SERVER [--only NAME] [--verbose]

Each client is a file of its own in this folder. Their packages are installed, pinned, into
${TANDEM_CACHE:-~/.cache/tandem}/clients; where the registries cannot be reached, the clients that
need them are skipped, by name and with the reason. lm-eval is large and runs only with
TANDEM_TEST_LM_EVAL=1. One line for each client, then `N passed, N failed, N skipped`; the status is
1 when one failed, 4 when none ran.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "scripted_server"))
from scripted_server import ScriptedServer  # noqa: E402
from tandem_process import SKIPPED, TandemServer, demo_model_is_here  # noqa: E402

PYTHON_PACKAGES = ["openai==3.54.0", "anthropic==2.12.0", "langchain-nvidia-ai-endpoints==1.5.0"]
LM_EVAL_PACKAGES = ["lm_eval[api]==0.4.13"]
VALIDATOR_PACKAGES = ["jsonschema[format-nongpl]==4.26.0"]
KEY = "sk-clients-test"
MODEL = "tandem-test"
WRONG_WORDS = 3  # a client's status when only the words of the answer were others
INSTALL_TIMEOUT_S = 600
CLIENT_TIMEOUT_S = 120


class Unavailable(Exception):
    """Why a client cannot run here."""


def cache_dir():
    home_cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(os.environ.get("TANDEM_CACHE") or os.path.join(home_cache, "tandem"), "clients")


def install(what, folder, commands):
    """Runs the commands once; a folder with a stamp of the same contents is taken as it is."""
    stamp, wanted = os.path.join(folder, ".installed"), repr(commands)
    if os.path.isfile(stamp) and open(stamp, encoding="utf-8").read() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for command in commands:
        try:
            done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, timeout=INSTALL_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{what} cannot be installed: {error}")
        if done.returncode != 0:
            errors = [line for line in done.stdout.splitlines() if "error" in line.lower()]
            raise Unavailable(f"{what} cannot be installed: {(errors or ['no output'])[0]}")
    with open(stamp, "w", encoding="utf-8") as file:
        file.write(wanted)


def python_with(what, name, packages):
    folder = os.path.join(cache_dir(), name)
    python = os.path.join(folder, "bin/python")
    install(what, folder, [
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", "--quiet", "--retries=1", "--disable-pip-version-check", *packages]])
    return [python]


def python_command():
    return python_with("the Python clients", "python", PYTHON_PACKAGES)


def validator_command():
    return python_with("the validator", "validator", VALIDATOR_PACKAGES)


def node_command():
    """Node with the newest openai package that it can run."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise Unavailable("no node and npm here")
    version = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
    major = int(version.lstrip("v").split(".")[0])
    if major < 18:
        raise Unavailable(f"node {version} is too old, 18 is needed")
    openai = "openai@7.57.0" if major >= 22 else "openai@6.30.1"
    folder = os.path.join(cache_dir(), "node")
    install("the Node clients", folder, [npm_install(openai, "@anthropic-ai/sdk@1.12.0")])
    for name in os.listdir(HERE):
        if name.endswith(".mjs"):  # a module finds its packages beside itself
            shutil.copy(os.path.join(HERE, name), folder)
    return ["node"]


def npm_install(*packages):
    return ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1", *packages]


def agent_command(what, package, name):
    """A coding agent of npm's, whose path is told in the environment."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise Unavailable("no node and npm here")
    folder = os.path.join(cache_dir(), name)
    install(what, folder, [npm_install(package)])
    os.environ[name.upper()] = os.path.join(folder, "node_modules/.bin", name)
    return ["bash"]


def codex_command():
    return agent_command("Codex CLI", "@openai/codex@0.169.0", "codex")


def claude_command():
    return agent_command("Claude Code", "@anthropic-ai/claude-code@2.1.197", "claude")


def lm_eval_command():
    if os.environ.get("TANDEM_TEST_LM_EVAL") != "1":
        raise Unavailable("large: set TANDEM_TEST_LM_EVAL=1 to install and run it")
    return python_with("lm-eval", "lm_eval", LM_EVAL_PACKAGES)


def curl_command():
    if not shutil.which("curl"):
        raise Unavailable("no curl here")
    return ["bash"]


def here(name):
    return os.path.join(HERE, name)


def in_node(name):
    return os.path.join(cache_dir(), "node", name)


DEMO_CLIENTS = [
    ("curl", curl_command, here("curl.sh")),
    ("openai python, streaming", python_command, here("openai_streaming.py")),
    ("openai python, simple_chat", python_command, here("simple_chat.py")),
    ("openai python, tool_call_with_client", python_command, here("tool_call_with_client.py")),
    ("openai node, streaming", node_command, in_node("openai_streaming.mjs")),
    ("langchain ChatNVIDIA, streaming", python_command, here("chat_nvidia_streaming.py")),
]

SCRIPTED_CLIENTS = [
    ("openai python, responses", python_command, here("openai_responses.py")),
    ("openai node, responses and helpers", node_command, in_node("openai_responses.mjs")),
    ("anthropic python", python_command, here("anthropic_client.py")),
    ("anthropic node", node_command, in_node("anthropic_client.mjs")),
    ("langchain ChatNVIDIA, tools", python_command, here("chat_nvidia_tools.py")),
    ("codex", codex_command, here("codex.sh")),
    ("claude code", claude_command, here("claude_code.sh")),
    ("lm-eval", lm_eval_command, here("lm_eval_task.py")),
]

RANDOM_CLIENTS = [
    ("jsonschema, random calls", validator_command, here("random_calls.py")),
]


def call_of(name, **arguments):
    return ("<|tool_calls_section_begin|><|tool_call_begin|>functions." + name +
            ":0<|tool_call_argument_begin|>" + json.dumps(arguments) +
            "<|tool_call_end|><|tool_calls_section_end|>")


# What the scripted server says; the first that fits the last message is played.
SCRIPT = [
    {"when": "tandem-tool-output", "say": "<think>It ran.</think>The shell has answered."},
    {"when": "## Return of", "say": "<think>Sunny.</think>It is sunny in Paris."},
    {"when": "<session>", "say": '<think>A title.</think>{"title": "A question"}'},
    # The last message of Claude Code's first turn is not the question but a system message.
    {"when": "Available agent types",
     "say": "<think>Run it.</think>" + call_of("Bash", command="printf 'tandem-%s-output' tool", description="Print")},
    {"when": "shell-question",
     "say": "<think>Run it.</think>" + call_of("exec_command", cmd="printf 'tandem-%s-output' tool")},
    {"when": "tool-question",
     "say": "<think>I should look.</think>Let me look." + call_of("get_weather", city="Paris")},
    {"when": "schema-question", "say": '<think>Which?</think>{"city": "Paris", "n": 1}'},
    {"say": "<think>Hm.</think>plain-answer"},
]


def run_client(command, server):
    """(status, output); the words of a model that draws its tokens get a second try."""
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    env.update(TANDEM_URL=server.url, TANDEM_BASE_URL=server.url + "/v1", TANDEM_KEY=KEY, TANDEM_MODEL=MODEL,
               PYTHONDONTWRITEBYTECODE="1")
    env.setdefault("TANDEM_SHARED_DIR", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(HERE))), "shared"))
    output = ""
    for _ in range(2):
        try:
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, timeout=CLIENT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            return 1, f"{error.stdout or ''}\nno end after {CLIENT_TIMEOUT_S} s"
        output += done.stdout
        if done.returncode != WRONG_WORDS:
            break
        output += "(other words: tried once more)\n"
    return done.returncode, output


def prepared(prepare, outcomes={}):
    """What prepare() gives or why it cannot, found out once for all clients of a kind."""
    if prepare not in outcomes:
        try:
            outcomes[prepare] = prepare()
        except Unavailable as reason:
            outcomes[prepare] = reason
    if isinstance(outcomes[prepare], Unavailable):
        raise outcomes[prepare]
    return outcomes[prepare]


def run_clients(clients, server, args):
    """(passed, failed, skipped)"""
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}
    for name, prepare, path in clients:
        try:
            command = [*prepared(prepare), path]
        except Unavailable as reason:
            counts["SKIP"] += 1
            print(f"SKIP {name}: {reason}", flush=True)
            continue
        status, output = run_client(command, server)
        verdict = "PASS" if status == 0 else "FAIL"
        counts[verdict] += 1
        print(f"{verdict} {name}", flush=True)
        if status != 0 or args.verbose:
            print("    " + output.strip().replace("\n", "\n    "), flush=True)
    return counts["PASS"], counts["FAIL"], counts["SKIP"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tandem")
    parser.add_argument("scripted_server")
    parser.add_argument("--only", default="", help="only the clients with this in their name")
    parser.add_argument("--verbose", action="store_true", help="print what each client prints")
    args = parser.parse_args()
    if not demo_model_is_here():
        print("SKIP all clients: no demo model in server/demo/model")
        return SKIPPED
    options = ["--api-key", KEY, "--served-model-name", MODEL]
    groups = [(DEMO_CLIENTS, lambda: TandemServer(args.tandem, *options)),
              (SCRIPTED_CLIENTS, lambda: ScriptedServer(args.scripted_server, SCRIPT, *options)),
              (RANDOM_CLIENTS, lambda: ScriptedServer(args.scripted_server, {"random": 1}, *options))]
    passed = failed = skipped = 0
    for clients, start in groups:
        chosen = [client for client in clients if args.only in client[0]]
        if not chosen:
            continue
        with start() as server:
            counts = run_clients(chosen, server, args)
        passed, failed, skipped = passed + counts[0], failed + counts[1], skipped + counts[2]
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0 if passed else SKIPPED


if __name__ == "__main__":
    sys.exit(main())
