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

    def test_server_info_shows_the_flags_but_no_key(self):
        keys = self.path("keys", "sk-file\n")
        with TandemServer(TANDEM, "--api-key", "sk-line", "--api-key-file", keys, "--max-queue", 7, "--preserve-thinking",
                          environment={"TANDEM_ADMIN_API_KEY": "sk-admin"}) as server:
            self.assertEqual(server.request("GET", "/server_info")[0], 401)
            status, _, text = server.request("GET", "/server_info", headers={"x-api-key": "sk-line"})
        self.assertEqual(status, 200)
        self.assertNotIn("sk-", text)
        info = json.loads(text)
        flags = {"api-key": "***", "admin-api-key": "***", "api-key-file": keys, "max-queue": "7", "preserve-thinking": "true"}
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
