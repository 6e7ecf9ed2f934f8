"""Starts the scripted server on a free port. Python's standard library only."""
import json
import os
import subprocess
import sys
import tempfile
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from server_process import ServerProcess  # noqa: E402


class ScriptedServer(ServerProcess):
    """`with ScriptedServer(executable, script, *args) as server:` server.url is ready to be asked.

    `script` is what the JSON file holds: a list of {"when", "say", ...}, or {"random": seed}.
    """

    def __init__(self, executable, script, *args, stderr=None):
        self.executable, self.script, self.args, self.stderr = executable, script, [*map(str, args)], stderr

    def __enter__(self):
        handle, self.script_path = tempfile.mkstemp(suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(self.script, file)
        self.process = subprocess.Popen([self.executable, "--script", self.script_path, *self.args],
                                        stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the scripted server ended with status {self.process.wait()}")
        self.host, self.port = urllib.parse.urlsplit(self.url).hostname, urllib.parse.urlsplit(self.url).port
        return self

    def __exit__(self, *_):
        self.end()
        self.process.stdout.close()
        if self.process.stderr:
            self.process.stderr.close()
        os.unlink(self.script_path)
        assert self.process.returncode == 0, f"the scripted server ended with status {self.process.returncode}"

    def chat(self, text, **body):
        """The parsed answer to one user message."""
        return self.post_chat({"messages": [{"role": "user", "content": text}], **body})
