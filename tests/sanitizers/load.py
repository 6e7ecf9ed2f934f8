#!/usr/bin/env python3
"""Chat requests at rising rates (bench/serving_load.py) against servers that must end well: load.py SCRIPTED_SERVER TANDEM.

A sanitizer that saw something ends the server with a status of its own. The scripted server takes many streams; the real
program, with the demo model, fewer, but all threads of its arithmetic work for them.
"""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "scripted_server"))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from scripted_server import ScriptedServer  # noqa: E402
from tandem_process import TandemServer  # noqa: E402

SCRIPT = [{"say": "<think>Let me see. </think>0123456789", "repeat": True}]


def load(url, rates, num_tokens):
    subprocess.run([sys.executable, os.path.join(ROOT, "bench", "serving_load.py"), "--url", url, "--rates", rates,
                    "--seconds", "5", "--tokens", str(num_tokens)], check=True)


def main(scripted_server, tandem):
    with ScriptedServer(scripted_server, SCRIPT, "--step-us", 5000, "--max-sequences", 64) as server:
        load(server.url, "2,8,16", 48)
    with TandemServer(tandem, "--threads", 2) as server:
        load(server.url, "1,2,4", 16)
        status = server.stop()
    if status != 0:
        print(server.output())
        raise RuntimeError(f"tandem ended with status {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
