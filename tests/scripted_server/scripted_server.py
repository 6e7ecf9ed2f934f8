"""Starts the scripted server on a free port. Python's standard library only."""
import http.client
import json
import os
import subprocess
import tempfile
import urllib.parse


class ScriptedServer:
    """`with ScriptedServer(executable, script, *args) as server:` server.url is ready to be asked.

    `script` is what the JSON file holds: a list of {"when", "say", ...}, or {"random": seed}.
    """

    def __init__(self, executable, script, *args):
        self.executable, self.script, self.args = executable, script, [*map(str, args)]

    def __enter__(self):
        handle, self.script_path = tempfile.mkstemp(suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(self.script, file)
        self.process = subprocess.Popen([self.executable, "--script", self.script_path, *self.args],
                                        stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the scripted server ended with status {self.process.wait()}")
        self.host, self.port = urllib.parse.urlsplit(self.url).hostname, urllib.parse.urlsplit(self.url).port
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        os.unlink(self.script_path)

    def request(self, method, path, body=None, headers=None, timeout_s=60):
        """(status, headers in lower case, body text) of a request with a JSON body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            head = {name.lower(): value for name, value in response.getheaders()}
            return response.status, head, response.read().decode()
        finally:
            connection.close()

    def chat(self, text, **body):
        """The parsed answer of /v1/chat/completions to one user message."""
        messages = [{"role": "user", "content": text}]
        status, _, answer = self.request("POST", "/v1/chat/completions", {"messages": messages, **body})
        assert status == 200, f"status {status}: {answer}"
        return json.loads(answer)
