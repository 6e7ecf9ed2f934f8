"""A server in a child process, and plain HTTP to it. Python's standard library only."""
import http.client
import json
import subprocess
import urllib.parse


class ServerProcess:
    """What starts it sets `process` (a Popen) and `url`."""

    process = None
    url = None

    def end(self):
        """SIGTERM, and SIGKILL to one that takes no notice."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def connection(self, timeout_s=120):
        return http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=timeout_s)

    def request(self, method, path, body=None, headers=None, timeout_s=120):
        """(status, headers with names in lower case, body text) of a request with a JSON body."""
        connection = self.connection(timeout_s)
        try:
            data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            head = {name.lower(): value for name, value in response.getheaders()}
            return response.status, head, response.read().decode()
        finally:
            connection.close()

    def post_chat(self, body):
        """The parsed answer of /v1/chat/completions; an assertion unless the status is 200."""
        status, _, text = self.request("POST", "/v1/chat/completions", body)
        assert status == 200, f"status {status}: {text}"
        return json.loads(text)

    def health(self):
        return json.loads(self.request("GET", "/health")[2])
