#!/usr/bin/env python3
"""Runs the clients that people use against the demo model.

    run_clients.py TANDEM [--only NAME] [--verbose]

Each client is a file of its own in this folder. Their packages are installed, pinned, into
${TANDEM_CACHE:-~/.cache/tandem}/clients; where the registries cannot be reached, the clients that
need them are skipped, by name and with the reason. One line for each client, then
`N passed, N failed, N skipped`; the status is 1 when one failed, 4 when none ran.
"""
import argparse
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
from tandem_process import SKIPPED, TandemServer, demo_model_is_here  # noqa: E402

PYTHON_PACKAGES = ["openai==3.54.0", "langchain-nvidia-ai-endpoints==1.5.0"]
KEY = "sk-clients-test"
WRONG_WORDS = 3  # a client's status when only the words of the answer were others
INSTALL_TIMEOUT_S = 400
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


def python_command():
    folder = os.path.join(cache_dir(), "python")
    python = os.path.join(folder, "bin/python")
    install("the Python clients", folder, [
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", "--quiet", "--retries=1", "--disable-pip-version-check", *PYTHON_PACKAGES]])
    return [python]


def node_command():
    """Node with the newest openai package that it can run."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise Unavailable("no node and npm here")
    version = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
    major = int(version.lstrip("v").split(".")[0])
    if major < 18:
        raise Unavailable(f"node {version} is too old, 18 is needed")
    package = "openai@7.57.0" if major >= 22 else "openai@6.30.1"
    folder = os.path.join(cache_dir(), "node")
    install("the Node client", folder,
            [["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1",
              package]])
    # A module finds its packages beside itself.
    shutil.copy(os.path.join(HERE, "openai_streaming.mjs"), folder)
    return ["node"]


def curl_command():
    if not shutil.which("curl"):
        raise Unavailable("no curl here")
    return ["bash"]


CLIENTS = [
    ("curl", curl_command, os.path.join(HERE, "curl.sh")),
    ("openai python, streaming", python_command, os.path.join(HERE, "openai_streaming.py")),
    ("openai python, simple_chat", python_command, os.path.join(HERE, "simple_chat.py")),
    ("openai python, tool_call_with_client", python_command,
     os.path.join(HERE, "tool_call_with_client.py")),
    ("openai node, streaming", node_command,
     os.path.join(cache_dir(), "node", "openai_streaming.mjs")),
    ("langchain ChatNVIDIA, streaming", python_command, os.path.join(HERE, "chat_nvidia_streaming.py")),
]


def run_client(command, server):
    """(status, output); the words of a model that draws its tokens get a second try."""
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    env.update(TANDEM_BASE_URL=server.url + "/v1", TANDEM_KEY=KEY, TANDEM_MODEL=server.model,
               PYTHONDONTWRITEBYTECODE="1")
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tandem")
    parser.add_argument("--only", help="only the clients with this in their name")
    parser.add_argument("--verbose", action="store_true", help="print what each client prints")
    args = parser.parse_args()
    if not demo_model_is_here():
        print("SKIP all clients: no demo model in server/demo/model")
        return SKIPPED
    passed = failed = skipped = 0
    with TandemServer(args.tandem, "--api-key", KEY) as server:
        for name, prepare, path in CLIENTS:
            if args.only and args.only not in name:
                continue
            try:
                command = [*prepared(prepare), path]
            except Unavailable as reason:
                skipped += 1
                print(f"SKIP {name}: {reason}", flush=True)
                continue
            status, output = run_client(command, server)
            passed, failed = passed + (status == 0), failed + (status != 0)
            print(f"{'PASS' if status == 0 else 'FAIL'} {name}", flush=True)
            if status != 0 or args.verbose:
                print("    " + output.strip().replace("\n", "\n    "), flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0 if passed else SKIPPED


if __name__ == "__main__":
    sys.exit(main())
