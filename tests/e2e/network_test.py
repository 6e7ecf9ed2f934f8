#!/usr/bin/env python3
"""How `tandem serve` can be reached, and that its flags are documented: network_test.py TANDEM [unittest arguments]."""
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest
import urllib.request

from tandem_process import DEMO_MODEL_DIR, SOURCE_DIR, TandemServer, demo_model_is_here, run

TANDEM = ""
FLAGS = os.path.join(SOURCE_DIR, "server/cli/serve_flags.md")
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


class Network(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name, text=None):
        path = os.path.join(self.folder.name, name)
        if text is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return path

    def certificate(self):
        if not shutil.which("openssl"):
            self.skipTest("no openssl to make a certificate with")
        files = self.path("cert.pem"), self.path("key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-out", files[0], "-keyout", files[1]], check=True, stderr=subprocess.DEVNULL)
        return files

    def test_a_file_of_keys_opens_the_server(self):
        keys = self.path("keys", "# the team's\n\n  sk-ann  \nsk-bob\r\n")
        with TandemServer(TANDEM, "--api-key-file", keys, "--api-key", "sk-root") as server:
            self.assertEqual(server.request("GET", "/v1/models")[0], 401)
            for key in ("sk-ann", "sk-bob", "sk-root"):
                self.assertEqual(server.request("GET", "/v1/models", headers={"x-api-key": key})[0], 200, key)
            self.assertEqual(server.request("GET", "/v1/models", headers={"x-api-key": "# the team's"})[0], 401)

    def test_key_files_that_hold_none_are_refused(self):
        for path, why in [(self.path("empty", "# nobody\n"), "expected a key"), (self.path("none"), "cannot read")]:
            status, _, errors = run(TANDEM, "serve", "--port", 0, "--api-key-file", path)
            self.assertEqual(status, 1)
            self.assertIn(why, errors)
            self.assertIn(path, errors)

    def test_the_largest_body_fits_into_what_all_may_take(self):
        for mib, total_mib in ((8, 1024), (4096, 4096)):
            with TandemServer(TANDEM, "--max-body-mib", mib) as server:
                info = json.loads(server.request("GET", "/server_info")[2])
                self.assertEqual(info["max_body_size_bytes"], mib << 20)
                self.assertEqual(info["max_total_body_size_bytes"], total_mib << 20)

    def test_server_info_shows_the_flags_but_no_key(self):
        keys = self.path("keys", "sk-file\n")
        with TandemServer(TANDEM, "--api-key", "sk-line", "--api-key-file", keys, "--max-queue", 7, "--preserve-thinking",
                          "--otlp-traces-endpoint", "http://me:sk-otlp@127.0.0.1:9/v1/traces?key=sk-query",
                          environment={"TANDEM_ADMIN_API_KEY": "sk-admin"}) as server:
            self.assertEqual(server.request("GET", "/server_info")[0], 401)
            status, _, text = server.request("GET", "/server_info", headers={"x-api-key": "sk-line"})
        self.assertEqual(status, 200)
        self.assertNotIn("sk-", text)
        info = json.loads(text)
        flags = {"api-key": "***", "admin-api-key": "***", "api-key-file": keys, "max-queue": "7", "preserve-thinking": "true",
                 "otlp-traces-endpoint": "http://127.0.0.1:9/v1/traces"}
        self.assertEqual(flags, {name: info["flags"].get(name) for name in flags})
        self.assertEqual(info["max_queued_requests"], 7)
        self.assertEqual(info["model_path"], DEMO_MODEL_DIR)
        self.assertTrue(info["cpu_isa"])
        self.assertTrue(info["placement"])

    def test_a_unix_socket_takes_the_place_of_the_port(self):
        path = self.path("tandem.sock")
        command = [TANDEM, "serve", "--uds", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                if line.startswith("Ready at"):
                    break
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                body = json.dumps(HELLO).encode()
                client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                               b"Content-Length: %d\r\n\r\n" % len(body) + body)
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            process.terminate()
            process.stdout.read()
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer)
        self.assertEqual(process.returncode, 0)
        self.assertFalse(os.path.exists(path))
        self.assertEqual(run(TANDEM, "serve", "--uds", path, "--port", 1)[0], 2)

    def test_tls_is_spoken_with_the_files_given(self):
        certificate, key = self.certificate()
        with TandemServer(TANDEM, "--tls-cert", certificate, "--tls-key", key) as server:
            self.assertTrue(server.url.startswith("https://"))
            context = ssl.create_default_context(cafile=certificate)
            request = urllib.request.Request(server.url + "/v1/chat/completions", json.dumps(HELLO).encode(),
                                             {"Content-Type": "application/json"})
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                                 urllib.request.HTTPSHandler(context=context))
            with opener.open(request, timeout=60) as response:
                self.assertEqual(json.load(response)["usage"]["completion_tokens"], 3)
        self.assertEqual(run(TANDEM, "serve", "--tls-cert", certificate)[0], 2)
        status, _, errors = run(TANDEM, "serve", "--tls-cert", key, "--tls-key", key, "--port", 0)
        self.assertEqual(status, 1)
        self.assertIn(key, errors)


class Answers(unittest.TestCase):
    def test_flags_of_answers_and_log_reach_the_server(self):
        with TandemServer(TANDEM, "--strict-params", "--stream-interval", 1000, "--enable-force-include-usage",
                          "--disable-access-log-for-endpoints", "/health,/metrics") as server:
            server.health()
            self.assertEqual(server.request("GET", "/metrics")[0], 200)
            status, _, text = server.request("POST", "/v1/chat/completions", {**HELLO, "colour": 1})
            self.assertEqual((status, json.loads(text)["error"]["param"]), (400, "colour"))
            asked = {**HELLO, "max_tokens": 60, "stream": True, "ignore_eos": True, "temperature": 0}
            events = self.events(server, asked)
            self.assertEqual(events[-1]["choices"], [])
            self.assertEqual(events[-1]["usage"]["completion_tokens"], 60)
            # Its role, the first text, the rest of its thinking or content at its end, that end, usage.
            self.assertLessEqual(len(events), 6)
            self.assertEqual(self.text(events), self.text(self.events(server, {**asked, "stream_interval": 2})))
            self.assertEqual(server.stop(), 0)
        log = server.output()
        self.assertRegex(log, r'127\.0\.0\.1 "POST /v1/chat/completions" 400 \d+\.\d+ s req-')
        self.assertIn('"POST /v1/chat/completions" 200', log)
        self.assertNotIn('"GET', log)  # neither /health nor /metrics

    def events(self, server, body):
        status, _, text = server.request("POST", "/v1/chat/completions", body)
        self.assertEqual(status, 200, text)
        lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
        self.assertEqual(lines.pop(), "[DONE]")
        return [json.loads(line) for line in lines]

    @staticmethod
    def text(events):
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        return "".join((delta.get("reasoning") or "") + (delta.get("content") or "") for delta in deltas)


class Flags(unittest.TestCase):
    def test_the_document_holds_the_help(self):
        """`tandem serve --help` is the one source; the document is written by --write."""
        with open(FLAGS, encoding="utf-8") as file:
            self.assertEqual(file.read(), flags_document(), f"{sys.argv[0]} TANDEM --write brings it up to date")


def flags_document():
    text = run(TANDEM, "serve", "--help")[1]
    return f"# The flags of `tandem serve`\n\nAs `tandem serve --help` prints them.\n\n```\n{text.strip()}\n```\n"


if __name__ == "__main__":
    TANDEM = sys.argv.pop(1)
    if "--write" in sys.argv:
        with open(FLAGS, "w", encoding="utf-8") as document:
            document.write(flags_document())
        sys.exit()
    if not demo_model_is_here():
        print("SKIP: no demo model in server/demo/model")
        sys.exit(4)
    unittest.main()
