#!/usr/bin/env python3
"""Many clients, good and hostile ones at once: hostile_clients_test.py SCRIPTED_SERVER [unittest arguments].

1,000 connections are open and idle, 200 streams run, and beside them clients that do not read, leave, close half of
the connection, dribble, flood with headers and requests, send 100 MB, deep JSON or JSON that is large in memory. Every good
client, a slow reader included, gets its whole answer, the memory of the server stays bounded, and afterwards nothing is
left running.
"""
import asyncio
import json
import os
import re
import resource
import socket
import sys
import time
import unittest

from scripted_server import ScriptedServer

EXECUTABLE = ""
NUM_IDLE, NUM_STREAMS, NUM_TOKENS = 1000, 200, 40
MAX_GROWTH_MIB = 400
SLOW_MACHINE = 10 if os.environ.get("TANDEM_SANITIZED") else 1  # sanitizers take memory and time
SCRIPT = [{"when": "endless", "say": "0123456789", "repeat": True},
          {"when": "broken", "say": ["a", 128, "b", 255]}, {"say": "0123456789", "repeat": True}]


def chat(text, **more):
    body = json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)) + body


async def read_stream(reader):
    """The pieces of content of a chunked stream, up to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    content, finish, done, data = "", None, False, b""
    while True:
        size = int(await reader.readline(), 16)
        data += await reader.readexactly(size)
        await reader.readexactly(2)
        if size == 0:
            break
    for event in data.decode().split("\n\n"):
        if event == "data: [DONE]":
            done = True
        elif event.startswith("data: "):
            for choice in json.loads(event[6:])["choices"]:
                content += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    return content, finish, done


class Crowd:
    """The clients of one run. A good one that fails raises; hostile ones expect nothing."""

    def __init__(self, server):
        self.server = server
        self.num_events = 0

    async def connect(self):
        return await asyncio.open_connection(self.server.host, self.server.port)

    async def stream(self, idx):
        reader, writer = await self.connect()
        writer.write(chat(f"good {idx}", stream=True, max_tokens=NUM_TOKENS))
        content, finish, done = await read_stream(reader)
        writer.close()
        assert (content, finish, done) == (("0123456789" * 9)[:len(content)], "length", True), content
        assert len(content) >= NUM_TOKENS, content

    async def idle(self, until):
        reader, writer = await self.connect()
        await until.wait()
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")  # still served
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        writer.close()

    async def does_not_read(self):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (self.server.host, self.server.port))
        await loop.sock_sendall(sock, chat("endless", stream=True))
        await asyncio.sleep(2)
        sock.close()

    async def reads_slowly(self):
        """Some bytes at a time into a small buffer, and gets the whole answer."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (self.server.host, self.server.port))
        await loop.sock_sendall(sock, chat("slow", stream=True, max_tokens=500))
        reader, text = asyncio.StreamReader(), b""
        while not text.endswith(b"\r\n0\r\n\r\n"):
            await asyncio.sleep(0.02)
            piece = await loop.sock_recv(sock, 1000)
            assert piece, text[-200:]
            text += piece
        sock.close()
        reader.feed_data(text)
        content, finish, _ = await read_stream(reader)
        assert finish == "length" and len(content) >= 500, (finish, len(content))

    async def floods_with_requests(self, reads):
        """Far more than a connection may have waiting; all are answered, or the client is cut off."""
        reader, writer = await self.connect()
        num_requests = 5000
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * num_requests)
        if reads:
            for _ in range(num_requests):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head).group(1)))
        else:
            await asyncio.sleep(2)
        writer.transport.abort()

    async def vanishes(self, idx):
        reader, writer = await self.connect()
        writer.write(chat("endless", stream=idx % 2 == 0, **({"heavy": {"n": 3}} if idx % 3 == 0 else {})))
        if idx % 2 == 0 and idx % 3 != 0:
            await reader.read(100)
        else:
            await asyncio.sleep(0.2)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
        writer.transport.abort()

    async def closes_half(self):
        reader, writer = await self.connect()
        writer.write(chat("endless", stream=True))
        await reader.read(100)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 120)  # the server ends it
        writer.close()

    async def sends(self, *pieces, pause_s=0.0):
        """The first bytes of the answer, b"" when there is none."""
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            return await asyncio.wait_for(reader.read(200), 120)
        except (ConnectionError, BrokenPipeError):
            return b""
        finally:
            writer.close()

    async def pipelines(self):
        reader, writer = await self.connect()
        writer.write(chat("one", stream=True, max_tokens=5) * 8)
        for _ in range(8):
            content, finish, done = await read_stream(reader)
            assert (content, finish, done) == (content, "length", True) and content.startswith("01234")
        writer.close()

    async def hostile(self):
        post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        chunk = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
        deep = b'{"messages":' + b"[" * 2_000_000
        large = b'{"messages":[' + b"[]," * 20_000_000 + b"[]]}"
        flood = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % idx for idx in range(5000))
        answers = await asyncio.gather(
            self.sends(post + b"Content-Length: 104857600\r\n\r\n"),
            self.sends(post + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 100),
            self.sends(post + b"Content-Length: %d\r\n\r\n" % len(deep) + deep),
            self.sends(post + b'Content-Length: 4\r\n\r\n"\xff\xfe"'),
            self.sends(flood),
            self.sends(post + b"Content-Length: %d\r\n\r\n" % len(large) + large),
            *[self.sends(*[bytes([byte]) for byte in b"GET /health"], pause_s=0.1) for _ in range(200)],
            *[self.reads_slowly() for _ in range(5)],
            *[self.floods_with_requests(reads=idx % 2 == 0) for idx in range(4)],
            *[self.does_not_read() for _ in range(10)],
            *[self.vanishes(idx) for idx in range(20)],
            *[self.closes_half() for _ in range(5)],
            *[self.pipelines() for _ in range(5)],
        )
        statuses = [answer[9:12] for answer in answers[:6]]
        assert statuses[0] == b"413" and statuses[2:] == [b"400", b"400", b"431", b"413"], statuses
        assert statuses[1] in (b"413", b""), statuses  # the reset may overtake the answer

    async def run(self):
        until = asyncio.Event()
        idle = [asyncio.create_task(self.idle(until)) for _ in range(NUM_IDLE)]
        await asyncio.sleep(0)
        streams = [asyncio.create_task(self.stream(idx)) for idx in range(NUM_STREAMS)]
        await asyncio.gather(self.hostile(), *streams)
        until.set()
        await asyncio.gather(*idle)


def peak_memory_mib(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) / 1024


class Hostile(unittest.TestCase):
    def test_good_clients_are_served_among_hostile_ones(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 2 * NUM_IDLE:
            self.skipTest(f"only {hard} descriptors are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
        begin = time.monotonic()
        with ScriptedServer(EXECUTABLE, SCRIPT, "--max-sequences", 128, "--max-queue", 512,
                            "--step-us", 1000, "--header-timeout", 8) as server:
            before_mib = peak_memory_mib(server.process)
            asyncio.run(Crowd(server).run())
            growth_mib = peak_memory_mib(server.process) - before_mib
            self.assertLess(growth_mib, MAX_GROWTH_MIB * SLOW_MACHINE)
            self.assertEqual(server.chat("broken")["choices"][0]["message"]["content"], "a\ufffdb\ufffd")
            deadline = time.monotonic() + 120
            while True:  # whoever left has been noticed, and gave everything back
                health = server.health()
                if (health["num_running"], health["num_waiting"], health["kv_pages_used"]) == (0, 0, 0):
                    break
                self.assertLess(time.monotonic(), deadline, health)
                time.sleep(0.05)
        print(f"{time.monotonic() - begin:.1f} s, {growth_mib:.0f} MiB more at the peak")


if __name__ == "__main__":
    EXECUTABLE = sys.argv.pop(1)
    unittest.main()
