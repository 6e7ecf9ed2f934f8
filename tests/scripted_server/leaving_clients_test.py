#!/usr/bin/env python3
"""Clients that leave, in every dialect and at every stage of a request: leaving_clients_test.py SCRIPTED_SERVER
[unittest arguments].

What ran for them is stopped and gives its pages back. Beside that, what all dialects owe to those who stay: a sign of
life during a long prefill, and an answer to bytes that are no text.
"""
import json
import os
import random
import re
import socket
import sys
import time
import unittest

from scripted_server import ScriptedServer

EXECUTABLE = ""
PATIENCE_S = 600 if os.environ.get("TANDEM_SANITIZED") else 120
DIALECTS = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 100_000},
    "/v1/messages": lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 100_000},
    "/v1/responses": lambda text: {"input": text},
}
SCRIPT = [{"when": "independent attempts", "say": "<think>Compare.</think>0123456789", "repeat": True},
          {"when": "short", "say": "<think>Guess.</think>Perhaps 42."},
          {"when": "broken", "say": ["a", 128, "b", 255]},
          {"say": "0123456789", "repeat": True}]
LONG_PROMPT = "a prompt of many words " * 1000  # 20 steps of prefill and more
TOOLS = [{"type": "function", "function": {"name": f"tool_{idx}", "parameters": {
    "type": "object", "properties": {f"key_{key}": {"type": "string", "pattern": f"^[a-z]{{1,{key + 1}}}$"}
                                     for key in range(30)}}}} for idx in range(10)]


def request_bytes(path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % (path.encode(), len(data))) + data


def close(client):
    client.close()


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def close_half(client):
    client.shutdown(socket.SHUT_WR)
    while client.recv(65536):  # the server ends it
        pass
    client.close()


class LeavingClients(unittest.TestCase):
    def server(self, *args):
        server = ScriptedServer(EXECUTABLE, SCRIPT, *args)
        server.__enter__()
        self.addCleanup(server.__exit__)
        return server

    def send(self, server, path, body):
        client = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
        client.sendall(request_bytes(path, body))
        return client

    def wait_for(self, server, **wanted):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            health = server.health()
            if all(health[key] == value for key, value in wanted.items()):
                return
            self.assertLess(time.monotonic(), deadline, f"wanted {wanted}, got {health}")
            time.sleep(0.005)

    def wait_until_idle(self, server):
        self.wait_for(server, num_running=0, num_waiting=0, kv_pages_used=0)

    def generated_tokens(self, server):
        text = server.request("GET", "/metrics")[2]
        counts = [float(line.split()[-1]) for line in text.splitlines()
                  if line.startswith("tandem:generation_tokens_total{")]
        self.assertEqual(len(counts), 1, text)
        return counts[0]

    def test_an_answer_ends_with_its_client(self):
        server = self.server("--step-us", 2000)
        for path, body in DIALECTS.items():
            for stream in (False, True):
                for leave in (close, reset, close_half):
                    with self.subTest(path=path, stream=stream, leave=leave.__name__):
                        client = self.send(server, path, {**body("go"), "stream": stream})
                        self.wait_for(server, num_running=1)
                        leave(client)
                        self.wait_until_idle(server)

    def test_who_waits_in_the_queue_leaves_it(self):
        server = self.server("--step-us", 2000, "--max-sequences", 1)
        running = self.send(server, "/v1/chat/completions", {**DIALECTS["/v1/chat/completions"]("go"), "stream": True})
        self.wait_for(server, num_running=1)
        for path, body in DIALECTS.items():
            with self.subTest(path=path):
                waiting = self.send(server, path, body("next"))
                self.wait_for(server, num_running=1, num_waiting=1)
                waiting.close()
                self.wait_for(server, num_running=1, num_waiting=0)
        running.close()
        self.wait_until_idle(server)

    def test_a_prefill_ends_with_its_client(self):
        server = self.server("--step-us", 200_000)
        for path, body in DIALECTS.items():
            with self.subTest(path=path):
                client = self.send(server, path, body(LONG_PROMPT))
                self.wait_for(server, num_running=1)
                client.close()
                self.wait_until_idle(server)
        self.assertEqual(self.generated_tokens(server), 0)  # none of them came to its end

    def test_whoever_leaves_while_a_grammar_is_compiled_costs_nothing(self):
        server = self.server("--step-us", 1000)
        rng = random.Random(1)
        for idx in range(20):
            body = {**DIALECTS["/v1/chat/completions"](f"go {idx}"), "tools": TOOLS[idx % 5:], "tool_choice": "required"}
            client = self.send(server, "/v1/chat/completions", body)
            time.sleep(rng.uniform(0, 0.05))
            reset(client)
        self.wait_until_idle(server)

    def test_heavy_mode_ends_with_its_client_at_every_stage(self):
        server = self.server("--step-us", 2000)
        rng = random.Random(2)
        clients = []
        for idx in range(40):  # among the rollouts, between the passes, in the final one
            body = {**DIALECTS["/v1/chat/completions"]("short"), "heavy": {"n": 2 + idx % 7}, "stream": idx % 2 == 0}
            clients.append((time.monotonic() + rng.uniform(0, 0.6), self.send(server, "/v1/chat/completions", body)))
        for due, client in sorted(clients, key=lambda one: one[0]):
            time.sleep(max(0.0, due - time.monotonic()))
            reset(client)
        self.wait_until_idle(server)
        client = self.send(server, "/v1/chat/completions",
                           {**DIALECTS["/v1/chat/completions"]("short"), "heavy": True, "stream": True})
        text = b""
        while b"reasoning_content" not in text:
            piece = client.recv(65536)
            self.assertTrue(piece, text)
            text += piece
        self.wait_for(server, num_running=1)
        close_half(client)
        self.wait_until_idle(server)


class WhatAllDialectsOwe(unittest.TestCase):
    def test_a_long_prefill_shows_signs_of_life(self):
        with ScriptedServer(EXECUTABLE, SCRIPT, "--step-us", 50_000, "--sse-keep-alive", 0.1) as server:
            for path, body in DIALECTS.items():
                with self.subTest(path=path):
                    request = {**body(f"{path} short {LONG_PROMPT}"), "stream": True}  # no prompt is known already
                    status, _, text = server.request("POST", path, request, timeout_s=PATIENCE_S)
                    self.assertEqual(status, 200)
                    sign = "event: ping\n" if path == "/v1/messages" else ": keep-alive\n"
                    first_token = re.search('"reasoning_content":"|"text":"|content_block|[.]delta', text).start()
                    self.assertGreater(text[:first_token].count(sign), 3, text[:2000])
                    for line in text.splitlines():  # and nothing is broken by it
                        if line.startswith("data: ") and line != "data: [DONE]":
                            json.loads(line[6:])

    def test_bytes_that_are_no_text_lose_no_answer(self):
        with ScriptedServer(EXECUTABLE, SCRIPT) as server:
            for path, body in DIALECTS.items():
                for stream in (False, True):
                    with self.subTest(path=path, stream=stream):
                        request = json.dumps({**body("broken HALF"), "stream": stream}).encode()
                        request = request.replace(b"HALF", b"\xff \xf0\x9f\x98 \xed\xa0\x80")
                        status, _, text = server.request("POST", path, request)
                        self.assertEqual(status, 200, text)
                        self.assertEqual(said_in(text, stream), "a\ufffdb\ufffd")


def said_in(text, stream):
    """The text of an answer, whatever the dialect."""
    if stream:
        events = [json.loads(line[6:]) for line in text.splitlines()
                  if line.startswith("data: ") and line != "data: [DONE]"]
        return "".join(piece_of(event) for event in events)
    answer = json.loads(text)
    if "choices" in answer:
        return answer["choices"][0].get("text") or answer["choices"][0]["message"]["content"]
    blocks = answer["content"] if "content" in answer else answer["output"][-1]["content"]
    return blocks[-1]["text"]


def piece_of(event):
    if event.get("type") == "response.output_text.delta":
        return event["delta"]
    if event.get("type") == "content_block_delta":
        return event["delta"].get("text", "")
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or ""
                   for choice in event.get("choices", []))


if __name__ == "__main__":
    EXECUTABLE = sys.argv.pop(1)
    unittest.main()
