#!/usr/bin/env python3
"""Chat requests at rising rates (bench/serving_load.py) against a server that must end well: load.py SCRIPTED_SERVER.

A sanitizer that saw something ends the server with a status of its own.
"""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "scripted_server"))
from scripted_server import ScriptedServer  # noqa: E402

SCRIPT = [{"say": "<think>Let me see. </think>0123456789", "repeat": True}]


def main():
    with ScriptedServer(sys.argv[1], SCRIPT, "--step-us", 5000, "--max-sequences", 64) as server:
        return subprocess.call([sys.executable, os.path.join(ROOT, "bench", "serving_load.py"), "--url", server.url,
                                "--rates", "2,8,16", "--seconds", "5", "--tokens", "48"])


if __name__ == "__main__":
    sys.exit(main())
