"""Starts the built executable and talks plain HTTP to it. Python's standard library only."""
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time

SKIPPED = 4  # what ctest takes for "skipped"
SOURCE_DIR = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(SOURCE_DIR, "tests", "support"))
from server_process import ServerProcess  # noqa: E402

DEMO_MODEL_DIR = os.environ.get("TANDEM_DEMO_MODEL") or os.path.join(SOURCE_DIR, "server/demo/model")
DIALOGUES = os.path.join(SOURCE_DIR, "server/demo/dialogues.json")


def demo_model_is_here():
    return os.path.isfile(os.path.join(DEMO_MODEL_DIR, "config.json"))


def run(executable, *args, timeout=120, **kwargs):
    """(exit status, stdout, stderr) of one command that ends by itself."""
    done = subprocess.run([executable, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=timeout, **kwargs)
    return done.returncode, done.stdout, done.stderr


class TandemServer(ServerProcess):
    """`tandem serve --port 0 ARGS`, ready when the `with` block begins and stopped when it ends."""

    def __init__(self, executable, *args, wait_until_ready=True, timeout_s=120, environment=None):
        self.command = [executable, "serve", "--port", "0", *map(str, args)]
        self.wait_until_ready = wait_until_ready
        self.timeout_s = timeout_s
        self.environment = {**os.environ, **(environment or {})}
        self.lines = []

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, env=self.environment)
        self.new_lines = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.url = self.wait_for_line(r"^Listening on (\S+)").group(1)
        if self.wait_until_ready:
            self.model = self.wait_for_line(r'^Ready at \S+, model "([^"]+)"').group(1)
        return self

    def __exit__(self, *_):
        self.end()
        self.reader.join()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)
                self.new_lines.put(line)
        self.new_lines.put(None)

    def wait_for_line(self, pattern):
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                line = self.new_lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise RuntimeError(f"no line like {pattern} in {self.timeout_s} s; so far:\n{self.output()}")
            if line is None:
                raise RuntimeError(f"the server ended (status {self.process.wait()}):\n{self.output()}")
            found = re.search(pattern, line)
            if found:
                return found

    def output(self):
        return "".join(self.lines)

    def stop(self, signal_number=signal.SIGTERM, timeout_s=40):
        """Sends the signal and gives the exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(timeout_s)

    def chat(self, **body):
        """The parsed answer of /v1/chat/completions; an assertion unless the status is 200."""
        return self.post_chat({"model": self.model, **body})
