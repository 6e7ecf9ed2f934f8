#!/usr/bin/env python3
"""`tandem serve` and `tandem chat` from outside: cli_serving_test.py TANDEM [unittest arguments]."""
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

from cli_case import TANDEM, CommandLineTest
from tandem_process import TandemServer, demo_model_is_here, run


class EndlessServer:
    """Answers every question with a word for ever, or `num_events` times and then with `last`."""

    def __init__(self, num_events=10 ** 9, last=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                body = b'{"data": [{"id": "endless"}]}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for _ in range(num_events):
                        self.event('{"choices": [{"index": 0, "delta": {"content": "word "}}]}')
                        time.sleep(0.01)
                    if last:
                        self.event(last)
                except OSError:
                    pass  # the client has gone, as it should

            def event(self, text):
                self.wfile.write(f"data: {text}\n\n".encode())

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class ServeTest(CommandLineTest):
    def serve(self, *args, **kwargs):
        return TandemServer(TANDEM, "--model", self.checkpoint, *args, **kwargs)

    def test_start_up_says_where_it_listens_and_what_to_try(self):
        with self.serve("--served-model-name", "some-name") as server:
            self.assertEqual(server.model, "some-name")
            self.assertEqual(server.request("GET", "/health")[0], 200)
            models = json.loads(server.request("GET", "/v1/models")[2])
            self.assertEqual(models["data"][0]["id"], "some-name")
            server.wait_for_line(r"^or: tandem chat --url " + re.escape(server.url))
            self.assertIn(f"curl -N {server.url}/v1/chat/completions", server.output())

    def test_the_curl_line_that_is_printed_works_as_it_stands(self):
        if not shutil.which("curl"):
            self.skipTest("no curl here")
        with self.serve() as server:
            server.wait_for_line(r"^or: tandem chat")
            command = re.search(r"(?m)^  (curl -N (?:.*\\\n)*.*)$", server.output()).group(1)
            command += ' | head -c 300'
            done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, timeout=60)
            self.assertTrue(done.stdout.startswith("data: {"), done.stdout + done.stderr)

    def test_an_idle_server_uses_less_than_a_hundredth_of_a_core(self):
        def cpu_s(pid):
            with open(f"/proc/{pid}/stat") as stat:
                user, system = stat.read().rsplit(")", 1)[1].split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        with self.serve() as server:
            body = {"model": server.model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
            self.assertEqual(server.request("POST", "/v1/chat/completions", body)[0], 200)
            time.sleep(0.5)
            before = cpu_s(server.process.pid)
            time.sleep(3)
            # One tick of the clock is a third of what is allowed.
            self.assertLess(cpu_s(server.process.pid) - before, 0.03 + 1e-6)

    def test_the_model_is_named_after_its_folder(self):
        with self.serve() as server:
            self.assertEqual(server.model, "made")

    def test_a_port_in_use_is_said_in_one_line(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.assert_fails("serve", "--model", self.checkpoint, "--port", port, says=[port, "in use"])

    def test_cards_that_are_not_there_are_refused_with_the_reason(self):
        self.assert_fails("serve", "--model", self.checkpoint, "--gpus", "99", says=["--gpus 99"])
        self.assert_fails("bench", "--model", self.checkpoint, "--gpus", "first", says=["--gpus first", "expected none"])

    def test_the_model_is_served_from_one_and_from_two_devices(self):
        for gpus in ("none", "none,none"):
            with self.serve("--gpus", gpus) as server:
                self.assertEqual(server.request("GET", "/health")[0], 200)

    def test_experts_lie_on_the_device_when_asked_for(self):
        with self.serve("--gpus", "none", "--gpu-expert-layers", "1") as server:
            body = {"model": server.model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
            self.assertEqual(server.request("POST", "/v1/chat/completions", body)[0], 200)
        self.assert_fails("serve", "--model", self.checkpoint, "--gpus", "none", "--gpu-expert-layers", "99",
                          says=["--gpu-expert-layers 99", "MoE layers", "expected at most"])
        self.assert_fails("serve", "--model", self.checkpoint, "--gpu-expert-layers", "all", says=["--gpu-expert-layers", "all"], status=2)

    def test_a_model_sleeps_wakes_says_what_it_said_and_ends_asleep(self):
        body = {"temperature": 0, "max_tokens": 40, "messages": [{"role": "user", "content": "hi"}]}
        for args in ((), ("--gpus", "none,none", "--gpu-expert-layers", "1")):
            with self.serve(*args) as server:
                before = server.chat(**body)["choices"]
                for level in (1, 2):
                    self.assertEqual(server.request("POST", f"/sleep?level={level}")[0], 200)
                    self.assertEqual(server.request("GET", "/is_sleeping")[2], '{"is_sleeping":true}')
                    self.assertEqual(server.request("POST", "/v1/chat/completions", body)[0], 503)
                    self.assertEqual(server.request("POST", "/wake_up")[0], 200)
                    self.assertEqual(server.chat(**body)["choices"], before)
                self.assertEqual(server.request("POST", "/sleep")[0], 200)
                self.assertEqual(server.stop(), 0)

    def test_a_request_wakes_the_model_where_it_may(self):
        with self.serve("--wake-on-request") as server:
            self.assertEqual(server.request("POST", "/sleep")[0], 200)
            server.chat(max_tokens=4, messages=[{"role": "user", "content": "hi"}])
            self.assertEqual(server.health()["sleep_state"], "awake")

    def test_an_idle_model_sleeps_by_itself_where_it_may(self):
        with self.serve("--sleep-after", "1") as server:
            for _ in range(2):
                deadline = time.monotonic() + 120
                while server.health()["sleep_state"] != "asleep":
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.1)
                server.chat(max_tokens=4, messages=[{"role": "user", "content": "hi"}])

    def test_prompts_alone_take_larger_steps_unless_told_otherwise(self):
        """(chunked_prefill_size, max_prefill_tokens): beside answers, and alone."""
        for args, expected in (
                ((), (512, 2048)),
                (("--prefill-chunk", 100, "--max-sequences", 3), (100, 2048)),
                (("--prefill-chunk", 1984), (1984, 2048)),
                (("--prefill-chunk", 1985), (1985, 2049)),
                (("--prefill-chunk", 2500, "--max-sequences", 3), (2500, 2503)),
                (("--max-batch-tokens", 600), (512, 600)),
                (("--max-batch-tokens", 3000), (512, 3000)),
                (("--max-batch-tokens", 64), (64, 64))):
            with self.serve(*args) as server:
                info = json.loads(server.request("GET", "/server_info")[2])
                self.assertEqual((info["chunked_prefill_size"], info["max_prefill_tokens"]), expected, args)
                self.assertIn(f"for steps of up to {expected[1]} tokens", server.output())
                answer = server.chat(max_tokens=1, messages=[{"role": "user", "content": "0123456789 " * 300}])
                prompt_tokens = answer["usage"]["prompt_tokens"]
                self.assertGreater(prompt_tokens, 2049)
                info = json.loads(server.request("GET", "/server_info")[2])
                self.assertEqual(info["internal_states"][0]["num_steps"], -(-prompt_tokens // expected[1]), args)

    def test_keys_are_asked_for_when_given_by_option_or_environment(self):
        with self.serve("--api-key", "one", "--api-key", "two") as server:
            self.assertEqual(server.request("GET", "/v1/models")[0], 401)
            for key in ("one", "two"):
                headers = {"Authorization": "Bearer " + key}
                self.assertEqual(server.request("GET", "/v1/models", headers=headers)[0], 200)
        os.environ["TANDEM_API_KEY"] = "three"
        try:
            with self.serve() as server:
                self.assertEqual(server.request("GET", "/v1/models")[0], 401)
                headers = {"Authorization": "Bearer three"}
                self.assertEqual(server.request("GET", "/v1/models", headers=headers)[0], 200)
        finally:
            del os.environ["TANDEM_API_KEY"]

    def start_answer(self, server, num_tokens):
        """A stream of `num_tokens` tokens, its head read: (connection, response)."""
        connection = server.connection()
        connection.request("POST", "/v1/chat/completions", json.dumps(
            {"model": server.model, "messages": [{"role": "user", "content": "hello"}], "stream": True,
             "max_tokens": num_tokens, "ignore_eos": True}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        response.readline()
        return connection, response

    def test_sigterm_lets_a_running_answer_finish(self):
        with self.serve() as server:
            connection, response = self.start_answer(server, 600)
            status = []
            waiter = threading.Thread(target=lambda: status.append(server.stop()))
            waiter.start()
            text = response.read().decode()
            waiter.join()
            connection.close()
            self.assertEqual(status, [0], server.output())
            self.assertTrue(text.rstrip().endswith("data: [DONE]"), text[-300:])
            self.assertIn('"finish_reason":"length"', text)
            server.wait_for_line(r"^Stopped\.")

    def test_a_second_signal_stops_at_once(self):
        with self.serve() as server:
            connection, _ = self.start_answer(server, 7000)
            server.process.send_signal(signal.SIGINT)
            server.wait_for_line(r"^Stopping")
            status = server.stop(signal.SIGINT, timeout_s=20)  # not the 30 s of a drain
            connection.close()
            self.assertEqual(status, 130, server.output())

    def test_an_idle_server_ends_well_on_either_signal(self):
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            with self.serve() as server:
                self.assertEqual(server.stop(signal_number, timeout_s=20), 0)

    def test_without_a_model_and_without_the_demo_the_places_are_named(self):
        self.assert_fails("serve", "--port", 0, says=["TANDEM_DEMO_MODEL", self.dir],
                          env={**os.environ, "TANDEM_DEMO_MODEL": self.dir})

    def test_without_a_model_the_demo_is_served_and_called_one(self):
        if not demo_model_is_here():
            self.skipTest("no demo model in server/demo/model")
        with TandemServer(TANDEM) as server:
            self.assertEqual(server.model, "tandem-demo")
            self.assertIn("tiny demo model", server.output())


class ChatTest(CommandLineTest):
    def chat(self, server_args, *args, stdin=None, **kwargs):
        return run(TANDEM, "chat", *server_args, "--max-tokens", 20, "--seed", 1, *args, input=stdin, **kwargs)

    def test_a_prompt_is_answered_by_a_server_of_its_own(self):
        status, out, err = self.chat(["--model", self.checkpoint], "-p", "hello")
        self.assertEqual(status, 0, err)
        self.assertNotIn("\x1b", out)
        self.assertIn("token limit", err)  # random weights end nowhere

    def test_lines_of_stdin_are_turns_of_one_conversation(self):
        with TandemServer(TANDEM, "--model", self.checkpoint) as server:
            url = ["--url", server.url]
            status, out, err = self.chat(url, stdin="/help\nhello\n/reset\nhello\n/thinking\n/exit\nnever asked\n")
            self.assertEqual(status, 0, err)
            self.assertIn("/reset", out)
            before, after = out.split("The conversation is forgotten.\n")
            self.assertIn("Thinking is shown.", after)
            # The same seed and a conversation that begins anew: the same answer.
            first = before.split("Ctrl-C stops an answer.\n")[1]
            self.assertEqual(first, after.split("Thinking is shown.")[0])
            self.assertEqual(self.chat(url + ["--thinking"], "-p", "-", stdin="two\nlines")[0], 0)
            self.assertEqual(self.chat(["--url", server.url + "/v1/"], "-p", "hello")[0], 0)

    def test_a_server_that_is_not_there_is_named(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = "http://127.0.0.1:%d" % free.getsockname()[1]
            self.assert_fails("chat", "--url", url, "-p", "hello", says=[url, "tandem serve"])
        self.assert_fails("chat", "--url", "https://127.0.0.1:1", "-p", "x", says=["TLS"])
        self.assert_fails("chat", "--url", "http://127.0.0.1:99999", "-p", "x", says=["--url", "port 99999", "65535"])
        self.assert_fails("chat", "--url", "ftp://127.0.0.1:1", "-p", "x", says=["http://HOST:PORT"])

    def test_a_key_that_is_missing_is_asked_for(self):
        with TandemServer(TANDEM, "--model", self.checkpoint, "--api-key", "secret") as server:
            self.assert_fails("chat", "--url", server.url, "-p", "hello", says=["--api-key"])
            self.assertEqual(self.chat(["--url", server.url, "--api-key", "secret"], "-p", "hello")[0], 0)

    def start_chat(self, url):
        command = [TANDEM, "chat", "--url", url, "-p", "hello"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.read(10), "word word ")
        return process

    def test_ctrl_c_stops_an_answer(self):
        with EndlessServer() as server:
            process = self.start_chat(server.url)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            self.assertTrue(out.endswith("\n(stopped)\n"), out[-100:] + err)
            self.assertEqual(process.returncode, 1)

    def test_a_server_that_goes_away_in_the_middle_is_an_error(self):
        with EndlessServer(num_events=50) as server:
            process = self.start_chat(server.url)
            out, err = process.communicate(timeout=20)
            self.assertEqual(process.returncode, 1)
            self.assertEqual(err.count("tandem: error: "), 1, err)
            self.assertRegex(err, "went away|finish_reason")

    def test_an_error_in_the_stream_is_shown(self):
        with EndlessServer(num_events=2, last='{"error": {"message": "the engine stopped"}}') as server:
            process = self.start_chat(server.url)
            self.assertIn("tandem: error: the engine stopped", process.communicate(timeout=20)[1])
            self.assertEqual(process.returncode, 1)

    def test_the_demo_greets(self):
        if not demo_model_is_here():
            self.skipTest("no demo model in server/demo/model")
        with TandemServer(TANDEM) as server:
            status, out, err = run(TANDEM, "chat", "--url", server.url, "-p", "Hello", "--temperature", 0)
            self.assertEqual(status, 0, err)
            self.assertIn("demo model", out)


if __name__ == "__main__":
    unittest.main(verbosity=2)
